package termination

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// lostAge is how long an instance must have waited before its event is taken for lost: EventBridge and SQS deliver within
	// seconds, and an event that comes after all is a duplicate, which does no harm.
	lostAge = 2 * time.Minute
	// sweepConcurrency is how many requests a sweep has under way at once. Auto Scaling has one bucket of requests for the whole
	// account: eight at once are done with 200 instances in a few seconds, and leave room for others.
	sweepConcurrency = 8
	// mostFaults bounds how many faults a report names; the rest are counted.
	mostFaults = 20
)

// SweepReport is the answer to a sweep: what it saw and what it did.
type SweepReport struct {
	Status       Status    `json:"status"`     // swept; failed: not a single group was seen
	Groups       int       `json:"groups"`     // of ours
	Waiting      int       `json:"waiting"`    // instances on their way out, and not past their hooks
	Draining     int       `json:"owned"`      // of these, by an invocation that drains them
	Heartbeats   int       `json:"heartbeats"` // one for each of the others that waits on our hook
	Messages     int       `json:"messages"`   // in the queue; while there are any, nothing is enqueued
	EventsResent int       `json:"enqueued"`   // terminations whose event was lost
	Restored     int       `json:"restored"`   // nodes that came back
	Errors       []string  `json:"faults"`     // what could not be seen or done; it did not stop the rest
	StartedAt    time.Time `json:"startedAt"`
	FinishedAt   time.Time `json:"finishedAt"`
}

// sweep is one look at all our groups.
type sweep struct {
	*Handler
	kubernetes Kubernetes      // nil: out of reach
	owned      []string        // Leases that an invocation holds
	free       []string        // Leases of instances that none holds
	seen       map[string]bool // instances, by ID
	marks      []CordonedNode
	returned   map[string]Termination // of the marks' instances that are in service, or retained, by id
	waiting    []waiter

	mu     sync.Mutex
	report SweepReport
	faults int
}

// waiter is an instance that waits, and nobody owns.
type waiter struct {
	Termination
	hook  *Hook // nil: it could not be had
	alive bool  // a heartbeat was accepted: it waits on our hook
}

// sweep keeps alive who waits for somebody to come, calls for those whose event was lost, and gives back what was taken from nodes
// that came back. It never drains. It remembers nothing: what it does follows from what Auto Scaling, the cluster and the
// queue say now.
func (h *Handler) sweep(ctx context.Context) (SweepReport, error) {
	ctx, cancel := sliceOf(ctx)
	defer cancel()
	s := &sweep{Handler: h, returned: map[string]Termination{}, seen: map[string]bool{}}
	s.report = SweepReport{Status: StatusSwept, Errors: []string{}, StartedAt: time.Now()}
	s.lookAtCluster(ctx)
	err := s.lookAtGroups(ctx)
	if err == nil {
		s.keepAlive(ctx)
		s.enqueue(ctx)
		s.restore(ctx)
		s.deleteLeases(ctx)
	}
	return s.conclude(err)
}

func (s *sweep) conclude(err error) (SweepReport, error) {
	s.report.FinishedAt = time.Now()
	if more := s.faults - mostFaults; more > 0 {
		s.report.Errors = append(s.report.Errors, fmt.Sprintf("and %d more", more))
	}
	if err != nil {
		s.report.Status = StatusFailed
		s.Log.Error("not swept", "error", err.Error(), "report", s.report)
		return s.report, &Failed{err}
	}
	s.Log.Log(context.Background(), s.level(), "swept", "report", s.report)
	if s.Metrics != nil {
		s.Metrics.Sweep(s.report)
	}
	return s.report, nil
}

// level: that a sweep found nothing is no news, each minute.
func (s *sweep) level() slog.Level {
	switch {
	case s.faults > 0:
		return slog.LevelWarn
	case s.report.Waiting+s.report.Restored > 0:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// lookAtCluster sees who owns what, and which nodes bear our mark. Without it, instances are kept alive all the same.
func (s *sweep) lookAtCluster(ctx context.Context) {
	k, err := s.Connect(ctx)
	if err == nil {
		err = s.readLeases(ctx, k)
	}
	if err == nil {
		s.kubernetes = k
		s.marks, err = k.CordonedNodes(ctx)
	}
	s.fault(err)
}

// readLeases sorts the Leases into those that an invocation holds, and those of instances that none does.
func (s *sweep) readLeases(ctx context.Context, k Kubernetes) error {
	leases, err := k.Leases(ctx)
	for _, l := range leases {
		switch {
		case l.Held:
			s.owned = append(s.owned, l.Name)
		case isInstance(l.Name):
			s.free = append(s.free, l.Name)
		}
	}
	return err
}

// isInstance reports whether a Lease is an instance's, by its name.
func isInstance(lease string) bool { return strings.HasPrefix(lease, "i-") }

// lookAtGroups finds the instances that wait. It fails if there is nothing it could look at.
func (s *sweep) lookAtGroups(ctx context.Context) error {
	var last error
	for group, err := range s.Fleet.List(ctx, s.Policy.GroupNames...) {
		switch {
		case err != nil:
			last = err
			s.fault(err)
		case s.Policy.OwnsGroup(group.Name):
			s.report.Groups++
			s.see(group)
		}
	}
	if s.report.Groups > 0 {
		return nil
	}
	return last
}

func (s *sweep) see(group Group) {
	for _, i := range group.Instances {
		s.seen[i.ID] = true
		t := Termination{Group: group.Name, Hook: s.Policy.Hook, InstanceID: i.ID}
		switch {
		case s.stays(i) && slices.ContainsFunc(s.marks, func(m CordonedNode) bool { return m.Node.InstanceID == i.ID }):
			s.returned[i.ID] = t
		case !i.isWaiting():
		case slices.Contains(s.owned, i.ID):
			s.report.Waiting++
			s.report.Draining++
		default:
			s.report.Waiting++
			s.waiting = append(s.waiting, waiter{Termination: t})
		}
	}
}

// stays tells whether what a termination took is to be given back: it is over, and pods run on. Of an instance that is retained
// that is what escorts took.
func (s *sweep) stays(i Instance) bool {
	return i.State == inService || i.State == retained && s.Drainer.HasEscorts()
}

// keepAlive heartbeats. Where that is refused for want of an active action, an instance waits on another hook, or no longer.
func (s *sweep) keepAlive(ctx context.Context) {
	hooks := s.hooks(ctx)
	s.waiting = slices.DeleteFunc(s.waiting, func(w waiter) bool { _, known := hooks[w.Group]; return !known })
	abreast(len(s.waiting), func(n int) {
		w := &s.waiting[n]
		err := heart{hooks: s.Hooks, of: w.Termination, log: s.Log, pulse: &pulse{}}.beat(ctx, heartbeatTimeout)
		if w.hook, w.alive = hooks[w.Group], err == nil; !errors.Is(err, ErrNoActiveAction) {
			s.fault(err)
		}
	})
	s.waiting = slices.DeleteFunc(s.waiting, func(w waiter) bool { return !w.alive })
	s.report.Heartbeats = len(s.waiting)
}

// hooks are those of the groups in which somebody waits; nil: it could not be had. Groups that have none of ours are missing:
// who waits there is nobody's business here.
func (s *sweep) hooks(ctx context.Context) map[string]*Hook {
	groups, hooks := groupsOf(s.waiting), map[string]*Hook{}
	abreast(len(groups), func(n int) {
		hook, err := s.Hooks.Describe(ctx, groups[n], s.Policy.Hook)
		if errors.Is(err, ErrNoHook) {
			return
		}
		s.fault(err)
		s.mu.Lock()
		defer s.mu.Unlock()
		if hooks[groups[n]] = &hook; err != nil {
			hooks[groups[n]] = nil
		}
	})
	return hooks
}

func groupsOf(waiting []waiter) []string {
	groups := make([]string, len(waiting))
	for n, w := range waiting {
		groups[n] = w.Group
	}
	slices.Sort(groups)
	return slices.Compact(groups)
}

// fault notes what went wrong, if anything did.
func (s *sweep) fault(err error) {
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults++; s.faults <= mostFaults {
		s.report.Errors = append(s.report.Errors, err.Error())
	}
}

// deleteLeases deletes the Leases that were kept for instances that are gone since.
func (s *sweep) deleteLeases(ctx context.Context) {
	gone := slices.DeleteFunc(s.free, func(id string) bool { return s.seen[id] })
	if len(gone) == 0 || s.kubernetes == nil || s.Policy.Shadow {
		return
	}
	instances, err := s.Groups.EC2Instances(ctx, gone...)
	s.fault(err)
	if err != nil {
		return
	}
	for _, id := range gone {
		if i, known := instances[id]; !known || i.Terminated {
			s.fault(s.kubernetes.DeleteFreeLease(ctx, id))
		}
	}
}

// abreast does n things, a few at once.
func abreast(n int, do func(int)) {
	slots := make(chan struct{}, sweepConcurrency)
	var group sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			do(i)
		})
	}
	group.Wait()
}
