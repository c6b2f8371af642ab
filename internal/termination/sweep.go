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
	// sweepConcurrency is how many requests a sweep has in flight. The whole account shares one bucket of Auto Scaling requests: with
	// eight, 200 instances take a few seconds, and others get requests too.
	sweepConcurrency = 8
	// filterValues is how many instances one DescribeInstances filters by
	// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html).
	filterValues = 200
	// maxErrors bounds how many errors a report names. The rest are counted.
	maxErrors = 20
)

// SweepReport is the answer to a sweep: what it saw and what it did.
type SweepReport struct {
	Status       Status    `json:"status"`       // swept; failed: no group could be described
	Groups       int       `json:"groups"`       // of ours
	Waiting      int       `json:"waiting"`      // instances that are terminating, and not past their hooks
	Draining     int       `json:"draining"`     // of these, the ones that an invocation drains
	Heartbeats   int       `json:"heartbeats"`   // one for each other instance that waits on our hook
	Messages     int       `json:"messages"`     // in the queue; while there are any, no event is sent again
	EventsResent int       `json:"eventsResent"` // terminations whose event was lost
	Restored     int       `json:"restored"`     // nodes whose instances returned to service
	Errors       []string  `json:"errors"`       // what could not be read or done; it did not stop the rest
	StartedAt    time.Time `json:"startedAt"`
	FinishedAt   time.Time `json:"finishedAt"`
}

// sweep is one look at all our groups.
type sweep struct {
	*Handler
	kubernetes Kubernetes      // nil: unreachable
	held       []string        // Leases that an invocation holds
	free       []string        // Leases of instances that no invocation holds
	seen       map[string]bool // instances, by ID
	cordoned   []CordonedNode
	returned   map[string]Termination // instances of cordoned nodes that are in service or retained, by ID
	waiting    []waitingInstance

	mutex  sync.Mutex
	report SweepReport
	errors int
}

// waitingInstance is an instance that waits, and that no invocation drains.
type waitingInstance struct {
	Termination
	hook     *Hook // nil: it could not be described
	accepted bool  // the heartbeat was: the instance waits on our hook
}

// sweep sends heartbeats for instances that wait for an invocation, sends lost events again, and restores nodes whose instances
// returned to service. It never drains, and keeps no state: what it does follows from Auto Scaling, the cluster and the queue.
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
		s.Log.Error("sweep failed", "error", err.Error(), "report", s.report)
		return s.report, &Failed{err}
	}
	s.Log.Log(context.Background(), s.level(), "swept", "report", s.report)
	if s.Metrics != nil {
		s.Metrics.Sweep(s.report)
	}
	return s.report, nil
}

// level is Debug for a sweep that found nothing, since there is one each minute.
func (s *sweep) level() slog.Level {
	switch {
	case s.errors > 0:
		return slog.LevelWarn
	case s.report.Waiting+s.report.Restored > 0:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// readCluster reads the Leases and the cordoned nodes. If that fails, instances are kept alive all the same.
func (s *sweep) readCluster(ctx context.Context) {
	cluster, err := s.Connect(ctx)
	if err == nil {
		err = s.readLeases(ctx, cluster)
	}
	if err == nil {
		s.kubernetes = cluster
		s.cordoned, err = cluster.CordonedNodes(ctx)
	}
	s.addError(err)
}

// readLeases separates the Leases that an invocation holds from the free Leases of instances.
func (s *sweep) readLeases(ctx context.Context, cluster Kubernetes) error {
	leases, err := cluster.Leases(ctx)
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

// readGroups finds the instances that wait. It fails if no group can be described.
func (s *sweep) readGroups(ctx context.Context) error {
	var last error
	for group, err := range s.Groups.List(ctx, s.Policy.GroupNames...) {
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
		case s.isRestorable(i) && slices.ContainsFunc(s.cordoned, func(n CordonedNode) bool { return n.Node.InstanceID == i.ID }):
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

// isRestorable reports whether the instance's termination is over and its pods keep running. Of a retained instance, only what escorts
// changed is restored.
func (s *sweep) isRestorable(i Instance) bool {
	return i.State == inService || i.State == retained && s.Drainer.HasEscorts()
}

// keepAlive sends heartbeats. If no action is active, the instance waits on another hook, or no longer.
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

// describeHooks returns our hooks of the groups in which instances wait; nil: a hook could not be described. Groups without our hook
// are missing: instances that wait there wait on hooks of others.
func (s *sweep) describeHooks(ctx context.Context) map[string]*Hook {
	groups, hooks := groupsOf(s.waiting), map[string]*Hook{}
	forEach(len(groups), func(n int) {
		hook, err := s.Hooks.Describe(ctx, groups[n], s.Policy.Hook)
		if errors.Is(err, ErrNoHook) {
			return
		}
		s.addError(err)
		s.mutex.Lock()
		defer s.mutex.Unlock()
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

// addError adds an error to the report, if there is one.
func (s *sweep) addError(err error) {
	if err == nil {
		return
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
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
	for ids := range slices.Chunk(gone, filterValues) {
		instances, err := s.Groups.EC2Instances(ctx, ids...)
		s.addError(err)
		if err != nil {
			return
		}
		for _, id := range ids {
			if i, known := instances[id]; !known || i.Terminated {
				s.addError(s.kubernetes.DeleteFreeLease(ctx, id))
			}
		}
	}
}

// forEach calls do for 0 to n-1, a few at a time.
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
