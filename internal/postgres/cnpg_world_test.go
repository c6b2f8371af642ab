package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

const (
	// promotionTime and labelTime are what CloudNativePG 1.30 took: until another instance is the current primary, and then until it has
	// the label that the Service selects by.
	promotionTime = 2900 * time.Millisecond
	labelTime     = 3700 * time.Millisecond
)

// cnpgWorld is a world whose cluster is one of CloudNativePG.
type cnpgWorld struct {
	*world
	target     string
	phase      string
	instances  int           // in the Cluster; fewer are ready if it is higher
	conflicts  int           // so many requests meet a Cluster that has changed
	meanwhile  func()        // what has changed in it; nil: nothing that matters
	lostAfter  error         // the answer to a request that is accepted
	refusal    error         // the answer to a request that is not
	takes      time.Duration // until the candidate is promoted; zero: promotionTime
	grows      LSN           // by how much the log grows at each look
	mute       int           // from this look at the leader under a pause on, it does not know its position; zero: it always does
	looks      int           // at the leader under a pause
	pooler     bool          // pooler c is one of CloudNativePG's own
	poolerType string        // in its Pooler; empty: it cannot be read
	early      bool          // a member was evicted during a switchover
	broken     string        // the promise that a request broke; empty: none
	blind      bool          // the Cluster cannot be read once a request was made
}

func newCNPGWorld() *cnpgWorld {
	c := &cnpgWorld{world: newWorld(), target: "pg-0", phase: cnpgHealthy, instances: 3}
	c.behavior = "cnpg"
	return c
}

// instanceView is one invocation's view of a cnpgWorld.
type instanceView struct {
	*incarnation
	c *cnpgWorld
}

// RequestPrimary implements Cluster: a world of Patroni has no Cluster.
func (i *incarnation) RequestPrimary(context.Context, escort.NewPrimary) (string, error) {
	return "", errors.New("not used")
}

func (v instanceView) resource() *cnpgCluster {
	var c cnpgCluster
	c.Metadata.ResourceVersion = strconv.Itoa(v.version)
	c.Spec.Instances = v.c.instances
	c.Status.CurrentPrimary, c.Status.TargetPrimary, c.Status.Phase = v.leader, v.c.target, v.c.phase
	c.Status.ReadyInstances = len(v.members)
	return &c
}

func (v instanceView) Facts(_ context.Context, id Identity) (Facts, error) {
	defer v.enter()()
	f := Facts{Identity: id}
	for _, name := range slices.Sorted(maps.Keys(v.members)) {
		m := Member{Ref: refOf(name), Node: "node-" + name, IP: v.members[name], Ready: true, API: Address{TLS: true, Port: cnpgStatusPort}}
		if slices.Contains(v.leaving, name) {
			m.Leaving = "it is being terminated"
		}
		f.Members = append(f.Members, m)
	}
	v.resource().read(&f)
	return f, nil
}

func (v instanceView) Live(_ context.Context, _ Identity, m Member) (LiveState, error) {
	defer v.enter()()
	if v.down[m.Name] {
		return LiveState{}, errors.New("no answer")
	}
	state := v.liveState(m.Name)
	state.Version, state.Known = "1.30.0", true // the status of an instance says what goes on in it
	if state.Role == Primary {
		v.live += v.c.grows
		if slices.Contains(v.effects, "pause a/app") {
			v.c.looks++
		}
		if v.c.mute > 0 && v.c.looks >= v.c.mute {
			state.LSN = 0
		}
	} else {
		state.Timeline-- // as a replica may show it
	}
	return state, nil
}

func (v instanceView) Custom(_ context.Context, _, resource, _, _ string, into any) (bool, error) {
	defer v.enter()()
	if pooler, is := into.(*cnpgPooler); is {
		pooler.Spec.Type = v.c.poolerType
		return v.c.poolerType != "", nil
	}
	if resource != cnpgClusters {
		return false, nil
	}
	if v.c.blind && slices.ContainsFunc(v.effects, func(e string) bool { return e == "primary pg-1" }) {
		return false, errors.New("no answer")
	}
	*into.(*cnpgCluster) = *v.resource()
	return true, nil
}

func (v instanceView) PodsMatching(ctx context.Context, namespace string, match func(drain.Pod) bool) ([]escort.Pod, error) {
	pods, err := v.incarnation.PodsMatching(ctx, namespace, func(drain.Pod) bool { return true })
	for i := range pods {
		v.relabel(&pods[i])
	}
	return slices.DeleteFunc(pods, func(p escort.Pod) bool { return !match(p.Pod) }), err
}

func (v instanceView) Inspect(ctx context.Context, ref drain.Ref) (*escort.Pod, error) {
	pod, err := v.incarnation.Inspect(ctx, ref)
	if pod != nil {
		v.relabel(pod)
	}
	return pod, err
}

func (v instanceView) relabel(p *escort.Pod) {
	switch {
	case p.Labels["app"] != "pgbouncer":
		p.Labels = map[string]string{"cnpg.io/podRole": "instance", "cnpg.io/cluster": "pg"}
	case v.c.pooler && p.Name == "pooler-c":
		p.Labels = map[string]string{"app": "pgbouncer", escort.CloudNativePGPooler: "pg-pooler", "cnpg.io/cluster": "pg"}
	}
}

// RequestPrimary implements Cluster. The operator and the instances act on what is accepted.
func (v instanceView) RequestPrimary(_ context.Context, p escort.NewPrimary) (string, error) {
	defer v.enter()()
	c := v.c
	switch {
	case c.conflicts > 0:
		c.conflicts--
		v.version++
		if c.meanwhile != nil {
			c.meanwhile()
		}
		return "", fmt.Errorf("patch: %w", escort.ErrConflict)
	case p.Version != strconv.Itoa(v.version):
		return "", fmt.Errorf("patch: %w", escort.ErrConflict)
	case c.refusal != nil:
		return "", c.refusal
	}
	c.checkRequest(v)
	v.version++
	c.target, c.phase, v.serviceTo = p.Candidate, "Switchover in progress", ""
	if c.takes >= 0 {
		c.locked(max(c.takes, promotionTime), c.promoteInstance)
	}
	v.effect("primary %s", p.Candidate)
	if c.lostAfter != nil {
		return "", c.lostAfter
	}
	return strconv.Itoa(v.version), nil
}

// checkRequest notes a request that must not be made. The caller holds the mutex.
func (c *cnpgWorld) checkRequest(v instanceView) {
	if c.target != c.leader || c.phase != cnpgHealthy {
		c.broken = "a target is written over another, or while the operator works"
	}
	for name, p := range c.poolers {
		if p.paused["app"].IsZero() {
			c.broken = "clients of pooler " + name + " could write when the primary was asked to stop"
		}
	}
	if l := c.leases[clusterLease(Identity{Namespace: "db", Cluster: "pg"})]; l == nil || l.holder != v.incarnation || l.mark == "" {
		c.broken = "a request without the Lease and its mark"
	}
}

// promoteInstance makes the target primary, or leaves everything as it was. The caller holds the mutex.
func (c *cnpgWorld) promoteInstance() {
	c.version++
	if c.behavior == "discarded" {
		c.target, c.phase, c.serviceTo = c.leader, cnpgHealthy, c.leader
		return
	}
	old := c.leader
	c.leader, c.timeline, c.starting[old] = c.target, c.timeline+1, time.Now().Add(8*time.Second)
	c.locked(labelTime, func() { c.serviceTo, c.phase = c.leader, cnpgHealthy })
}

// view returns the escort as one invocation has it.
func (c *cnpgWorld) view(change ...func(*Escort)) (*Escort, instanceView) {
	e, i := c.escort(change...)
	v := instanceView{i, c}
	e.Connect = func(context.Context) (Cluster, error) { return v, nil }
	e.Clusters = func(Cluster) Clusters { return v }
	return e, v
}

// runInstance runs the escort of an instance once.
func (c *cnpgWorld) runInstance(t *testing.T, name string, change ...func(*drain.EscortRequest)) (drain.EscortResult, error, bool) {
	e, v := c.view()
	return c.runAs(t, e, v.incarnation, name, append(change, c.watchEviction)...)
}

// watchEviction notes an eviction during a switchover.
func (c *cnpgWorld) watchEviction(r *drain.EscortRequest) {
	evict := r.Evict
	r.Evict = func(ctx context.Context, o drain.EvictOptions) error {
		c.mutex.Lock()
		c.early = c.early || !o.DryRun && c.target != c.leader
		c.mutex.Unlock()
		return evict(ctx, o)
	}
}
