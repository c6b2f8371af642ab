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
	// maxErrors bounds how many faults a report names; the rest are counted.
	maxErrors = 20
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
	held      []string        // Leases that an invocation holds
	free       []string        // Leases of instances that none holds
	seen       map[string]bool // instances, by ID
	cordoned      []CordonedNode
	returned   map[string]Termination // of the marks' instances that are in service, or retained, by id
	waiting    []waitingInstance

	mu     sync.Mutex
	report SweepReport
	errors int
}

// waitingInstance is an instance that waits, and nobody owns.
type waitingInstance struct {
	Termination
	hook  *Hook // nil: it could not be had
	accepted bool  // a heartbeat was accepted: it waits on our hook
}

// sweep keeps alive who waits for somebody to come, calls for those whose event was lost, and gives back what was taken from nodes
// that came back. It never drains. It remembers nothing: what it does follows from what Auto Scaling, the cluster and the
// queue say now.
func (h *Handler) sweep(ctx context.Context) (SweepReport, error) {
	ctx, cancel := boundInvocation(ctx)
	defer cancel()
	s := &sweep{Handler: h, returned: map[string]Termination{}, seen: map[string]bool{}}
	s.report = SweepReport{Status: StatusSwept, Errors: []string{}, StartedAt: time.Now()}
	s.readCluster(ctx)
	err := s.readGroups(ctx)
	if err == nil {
		s.keepAlive(ctx)
		s.resendLost(ctx)
		s.restore(ctx)
		s.deleteLeases(ctx)
	}
	return s.finish(err)
}

func (s *sweep) finish(err error) (SweepReport, error) {
	s.report.FinishedAt = time.Now()
	if more := s.errors - maxErrors; more > 0 {
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
	case s.errors > 0:
		return slog.LevelWarn
	case s.report.Waiting+s.report.Restored > 0:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// readCluster sees who owns what, and which nodes bear our mark. Without it, instances are kept alive all the same.
func (s *sweep) readCluster(ctx context.Context) {
	k, err := s.Connect(ctx)
	if err == nil {
		err = s.readLeases(ctx, k)
	}
	if err == nil {
		s.kubernetes = k
		s.cordoned, err = k.CordonedNodes(ctx)
	}
	s.addError(err)
}

// readLeases sorts the Leases into those that an invocation holds, and those of instances that none does.
func (s *sweep) readLeases(ctx context.Context, k Kubernetes) error {
	leases, err := k.Leases(ctx)
	for _, l := range leases {
		switch {
		case l.Held:
			s.held = append(s.held, l.Name)
		case isInstance(l.Name):
			s.free = append(s.free, l.Name)
		}
	}
	return err
}

// isInstance reports whether a Lease is an instance's, by its name.
func isInstance(lease string) bool { return strings.HasPrefix(lease, "i-") }

// readGroups finds the instances that wait. It fails if there is nothing it could look at.
func (s *sweep) readGroups(ctx context.Context) error {
	var last error
	for group, err := range s.Fleet.List(ctx, s.Policy.GroupNames...) {
		switch {
		case err != nil:
			last = err
			s.addError(err)
		case s.Policy.OwnsGroup(group.Name):
			s.report.Groups++
			s.addGroup(group)
		}
	}
	if s.report.Groups > 0 {
		return nil
	}
	return last
}

func (s *sweep) addGroup(group Group) {
	for _, i := range group.Instances {
		s.seen[i.ID] = true
		t := Termination{Group: group.Name, Hook: s.Policy.Hook, InstanceID: i.ID}
		switch {
		case s.isRestorable(i) && slices.ContainsFunc(s.cordoned, func(m CordonedNode) bool { return m.Node.InstanceID == i.ID }):
			s.returned[i.ID] = t
		case !i.isWaiting():
		case slices.Contains(s.held, i.ID):
			s.report.Waiting++
			s.report.Draining++
		default:
			s.report.Waiting++
			s.waiting = append(s.waiting, waitingInstance{Termination: t})
		}
	}
}

// isRestorable tells whether what a termination took is to be given back: it is over, and pods run on. Of an instance that is retained
// that is what escorts took.
func (s *sweep) isRestorable(i Instance) bool {
	return i.State == inService || i.State == retained && s.Drainer.HasEscorts()
}

// keepAlive heartbeats. Where that is refused for want of an active action, an instance waits on another hook, or no longer.
func (s *sweep) keepAlive(ctx context.Context) {
	hooks := s.describeHooks(ctx)
	s.waiting = slices.DeleteFunc(s.waiting, func(w waitingInstance) bool { _, known := hooks[w.Group]; return !known })
	forEach(len(s.waiting), func(n int) {
		w := &s.waiting[n]
		err := heartbeater{hooks: s.Hooks, termination: w.Termination, log: s.Log, stats: &heartbeatStats{}}.send(ctx, heartbeatTimeout)
		if w.hook, w.accepted = hooks[w.Group], err == nil; !errors.Is(err, ErrNoActiveAction) {
			s.addError(err)
		}
	})
	s.waiting = slices.DeleteFunc(s.waiting, func(w waitingInstance) bool { return !w.accepted })
	s.report.Heartbeats = len(s.waiting)
}

// describeHooks are those of the groups in which somebody waits; nil: it could not be had. Groups that have none of ours are missing:
// who waits there is nobody's business here.
func (s *sweep) describeHooks(ctx context.Context) map[string]*Hook {
	groups, hooks := groupsOf(s.waiting), map[string]*Hook{}
	forEach(len(groups), func(n int) {
		hook, err := s.Hooks.Describe(ctx, groups[n], s.Policy.Hook)
		if errors.Is(err, ErrNoHook) {
			return
		}
		s.addError(err)
		s.mu.Lock()
		defer s.mu.Unlock()
		if hooks[groups[n]] = &hook; err != nil {
			hooks[groups[n]] = nil
		}
	})
	return hooks
}

func groupsOf(waiting []waitingInstance) []string {
	groups := make([]string, len(waiting))
	for n, w := range waiting {
		groups[n] = w.Group
	}
	slices.Sort(groups)
	return slices.Compact(groups)
}

// addError notes what went wrong, if anything did.
func (s *sweep) addError(err error) {
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.errors++; s.errors <= maxErrors {
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
	s.addError(err)
	if err != nil {
		return
	}
	for _, id := range gone {
		if i, known := instances[id]; !known || i.Terminated {
			s.addError(s.kubernetes.DeleteFreeLease(ctx, id))
		}
	}
}

// forEach does n things, a few at once.
func forEach(n int, do func(int)) {
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
