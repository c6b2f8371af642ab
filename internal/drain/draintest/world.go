package draintest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"quiesce/internal/drain"
)

// controller recreates its pods on the node, whatever the cordon says.
type controller struct{ made int }

// Bring makes the pod's controller bring a successor to this node each time one of its pods is told to stop or vanishes, like that of
// pods with spec.nodeName. A successor takes as long to stop as its predecessor.
func (c *Cluster) Bring(p drain.Pod, stop time.Duration) *Cluster {
	if p.ControllerUID == "" {
		p.ControllerUID = "uid-of-" + p.Name
	}
	if p.ControllerName == "" {
		p.ControllerName = p.Name
	}
	c.mu.Lock()
	if c.controllers[p.ControllerUID] == nil {
		c.controllers[p.ControllerUID] = &controller{}
	}
	c.mu.Unlock()
	return c.Add(p, stop)
}

// replace brings the pod's successor, if its controller does that.
func (c *Cluster) replace(p drain.Pod) {
	owner := c.controllers[p.ControllerUID]
	if owner == nil {
		return
	}
	owner.made++
	stop := c.stops[p.String()]
	p.Name = fmt.Sprintf("%s-%d", p.ControllerName, owner.made)
	p.UID = "uid-" + p.Name
	p.Created, p.CreatedAfterCordon = time.Now(), true
	p.Deleted, p.StopsBy, p.ContainersEndedAt, p.Finalizers = time.Time{}, time.Time{}, time.Time{}, nil
	c.pods[p.String()], c.stops[p.String()] = p, stop
	c.note("come " + p.String())
}

// Outlast makes the pod take its time to stop, however short the grace of its eviction.
func (c *Cluster) Outlast(pod string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deaf[pod] = true
}

// Deny makes a webhook deny the pod's evictions with this text; an empty text ends that. With the prefix "delete ", it denies the
// pod's deletions.
func (c *Cluster) Deny(pod, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.denied[pod] = text
}

// Slow makes each eviction, and each deletion, take this long before it is executed and answered. A request that is cancelled before
// is not executed.
func (c *Cluster) Slow(evict, remove time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slow["evict"], c.slow["delete"] = evict, remove
}

func (c *Cluster) answerSlowly(ctx context.Context, kind string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	takes := c.slow[kind]
	c.mu.Unlock()
	if takes <= 0 {
		return nil
	}
	select {
	case <-time.After(takes):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Uncordon makes the node schedulable again, as a person would.
func (c *Cluster) Uncordon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.node.Uncordoned = true
	c.note("uncordon")
	c.announce()
}

// Recordon cordons the node again. It can be a Drainer's Recordon.
func (c *Cluster) Recordon(ctx context.Context) (time.Time, error) {
	if err := c.answerSlowly(ctx, "recordon"); err != nil {
		return time.Time{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.nextError("recordon"); err != nil {
		return time.Time{}, err
	}
	c.node.Uncordoned = false
	c.note("recordon")
	c.announce()
	return time.Now(), nil
}

// Replace gives the node's name to another node.
func (c *Cluster) Replace() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.node.Replaced = true
	c.note("replace")
	c.announce()
}

// Tell implements drain.Owners.
func (c *Cluster) Tell(e drain.PodEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, e)
	c.note(fmt.Sprintf("tell %s %s", e.Pod, e.Reason))
}

// Events returns what the owners of pods were told, in order.
func (c *Cluster) Events() []drain.PodEvent {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}
