package termination

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"quiesce/internal/drain"
)

const (
	// sweepConcurrency is how many requests a sweep has in flight. The whole account shares one bucket of Auto Scaling requests: with
	// eight, 200 instances take a few seconds, and others get requests too.
	sweepConcurrency = 8
	// sweepTimeout ends a sweep before the next one begins, a minute after it. What this one did not get to, one of the next does.
	sweepTimeout = 50 * time.Second
	// readClusterTimeout bounds what a sweep asks the cluster before it sends heartbeats. An API server that does not answer must not
	// cost the instances that wait.
	readClusterTimeout = 10 * time.Second
	// maxErrors bounds how many errors a report names. The rest are counted.
	maxErrors = 20
)

// errSweepOver is the cause of the end of a sweep's context.
var errSweepOver = fmt.Errorf("the sweep's %v are over, a later one continues", sweepTimeout)

// SweepReport is the answer to a sweep: what it saw and what it did.
type SweepReport struct {
	Status       Status `json:"status"`       // swept; failed: no group could be described
	Groups       int    `json:"groups"`       // of ours
	Waiting      int    `json:"waiting"`      // instances that are terminating, and not past their hooks
	Draining     int    `json:"draining"`     // of these, the ones that an invocation drains
	Heartbeats   int    `json:"heartbeats"`   // one for each other instance that waits on our hook
	Messages     int    `json:"messages"`     // in the queue; while there are any, no event is sent again
	EventsResent int    `json:"eventsResent"` // terminations whose event was lost
	Restored     int    `json:"restored"`     // nodes whose instances returned to service
	HooksPut     int    `json:"hooksPut"`     // groups that got our hook
	// Resumed are clusters of databases, as namespace/name, whose poolers an interrupted move had left paused.
	Resumed []string `json:"resumed,omitempty"`
	// GroupsWithoutHook is how many of the groups that were looked at are without our hook. WithoutHook names the first of them.
	GroupsWithoutHook int      `json:"groupsWithoutHook"`
	WithoutHook       []string `json:"withoutHook,omitempty"`
	// ClusterReachable: the Leases in the cluster could be read. Without them no event is sent again and no node is restored.
	ClusterReachable bool `json:"clusterReachable"`
	// LongestWaitSeconds is how long the instance LongestWaiting has waited on our hook, drained or not.
	LongestWaitSeconds float64 `json:"longestWaitSeconds"`
	LongestWaiting     string  `json:"longestWaiting,omitempty"`
	// Retained has instances whose termination was abandoned: they run until a person acts. RetainedOmitted counts those beyond the list.
	Retained        []RetainedInstance `json:"retained,omitempty"`
	RetainedOmitted int                `json:"retainedOmitted,omitempty"`
	// ScheduledChanges of our instances, the earliest first. Sweeps look for them once an hour.
	ScheduledChanges        []ScheduledChange `json:"scheduledChanges,omitempty"`
	ScheduledChangesOmitted int               `json:"scheduledChangesOmitted,omitempty"` // those beyond the list

	Errors     []string  `json:"errors"`              // what could not be read or done; it did not stop the rest
	Unreached  []string  `json:"unreached,omitempty"` // what the sweep had no time for
	StartedAt  time.Time `json:"startedAt"`
	FinishedAt time.Time `json:"finishedAt"`
}

// sweep is one look at all our groups.
type sweep struct {
	*Handler
	kubernetes Kubernetes             // nil: unreachable
	groups     []Group                // ours
	leases     map[string]LeaseInfo   // by name, which is the ID of an instance or that of a group
	seen       map[string]bool        // instances, by ID
	returned   map[string]Termination // instances that are in service or retained, and of which something is to be undone, by ID
	draining   []Termination          // instances that wait, and that an invocation drains
	waiting    []waitingInstance
	warmPools  []string                        // groups that have one
	hooksDue   []string                        // groups whose hook is looked at in this sweep
	activities map[string]map[string]time.Time // the starts of activities, by group and instance ID

	mutex  sync.Mutex // of what requests in parallel change
	report SweepReport
	errors int
}

// waitingInstance is an instance that waits, and that no invocation drains.
type waitingInstance struct {
	Termination
	warm     bool  // it is in a warm pool, and may wait on another hook
	hook     *Hook // nil: it could not be described
	accepted bool  // the heartbeat was: the instance waits on our hook
}

// sweep sends heartbeats for instances that wait for an invocation, sends lost events again, and restores nodes whose instances
// returned to service. It never drains, and keeps no state: what it does follows from Auto Scaling, the cluster and the queue.
func (h *Handler) sweep(ctx context.Context) (SweepReport, error) {
	ctx, cancel := boundInvocation(ctx)
	defer cancel()
	ctx, stop := context.WithTimeoutCause(ctx, sweepTimeout, errSweepOver)
	defer stop()
	s := h.newSweep()
	s.readCluster(ctx)
	err := s.readGroups(ctx)
	if err == nil {
		s.readWarmPools(ctx)
		s.keepAlive(ctx)
		s.resumePaused(ctx)
		s.measureWaits(ctx)
		s.resendLost(ctx)
		s.restore(ctx)
		s.checkHooks(ctx)
		s.deleteLeases(ctx)
		s.ageRetained(ctx)
		s.replaceScheduled(ctx)
	}
	return s.finish(err)
}

func (h *Handler) newSweep() *sweep {
	return &sweep{
		Handler: h, leases: map[string]LeaseInfo{}, returned: map[string]Termination{}, seen: map[string]bool{},
		activities: map[string]map[string]time.Time{},
		report:     SweepReport{Status: StatusSwept, Errors: []string{}, StartedAt: time.Now()},
	}
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
	case s.errors+len(s.report.Unreached)+s.report.GroupsWithoutHook > 0:
		return slog.LevelWarn
	case s.report.Waiting+s.report.Restored+s.report.HooksPut+s.report.RetainedCount()+len(s.report.ScheduledChanges) > 0:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// readCluster reads the Leases. If that fails, instances are kept alive all the same.
func (s *sweep) readCluster(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readClusterTimeout)
	defer cancel()
	cluster, err := s.Connect(ctx)
	if err == nil {
		err = s.readLeases(ctx, cluster)
	}
	if err == nil {
		s.kubernetes, s.report.ClusterReachable = cluster, true
	}
	s.addError(err)
}

func (s *sweep) readLeases(ctx context.Context, cluster Kubernetes) error {
	leases, err := cluster.Leases(ctx)
	for _, l := range leases {
		s.leases[l.Name] = l
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
		case s.Policy.Owns(group.Name, group.Tags):
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
	s.groups = append(s.groups, group)
	for _, i := range group.Instances {
		s.addInstance(group.Name, i)
	}
	if group.WarmPool {
		s.warmPools = append(s.warmPools, group.Name)
	}
	if s.Policy.isHookDue(group, s.report.StartedAt) {
		s.hooksDue = append(s.hooksDue, group.Name)
	}
}

// addInstance adds an instance to what the sweep looks after. An instance of a warm pool counts as waiting only once its heartbeat is
// accepted: on its way into the pool it may wait on a launch hook.
func (s *sweep) addInstance(group string, i Instance) {
	s.seen[i.ID] = true
	s.noteRetained(group, i)
	t := Termination{Group: group, Hook: s.Policy.Hook, InstanceID: i.ID}
	switch {
	case s.isRestorable(i) && (len(s.leases[i.ID].Closed) > 0 || s.isLeftEscorted(i)):
		s.returned[i.ID] = t
	case !i.isWaiting():
	case s.leases[i.ID].Held:
		s.report.Waiting++
		s.report.Draining++
		s.draining = append(s.draining, t)
	default:
		if !i.isWarm() {
			s.report.Waiting++
		}
		s.waiting = append(s.waiting, waitingInstance{Termination: t, warm: i.isWarm()})
	}
}

// readWarmPools finds the instances that wait in warm pools. The description of a group does not have them.
func (s *sweep) readWarmPools(ctx context.Context) {
	pools := make([][]Instance, len(s.warmPools))
	s.forEach(ctx, "warm pools", len(pools), func(n int) {
		var err error
		pools[n], err = s.Groups.WarmPool(ctx, s.warmPools[n])
		s.addError(err)
	})
	for n, pool := range pools {
		for _, i := range pool {
			s.addInstance(s.warmPools[n], i)
		}
	}
}

// isLeftEscorted reports whether no node of the instance is closed, but escorts changed pods. The node was opened and their undoing failed,
// or the cordon was denied.
func (s *sweep) isLeftEscorted(i Instance) bool {
	return len(s.leases[i.ID].Escorted) > 0 && s.Drainer.HasEscorts()
}

// isRestorable reports whether the instance's termination is over and its pods keep running. Of a retained instance, only what escorts
// changed is restored.
func (s *sweep) isRestorable(i Instance) bool {
	return i.State == inService || i.isRetained() && s.Drainer.HasEscorts()
}

// keepAlive sends heartbeats. If no action is active, the instance waits on another hook, or no longer.
func (s *sweep) keepAlive(ctx context.Context) {
	hooks := s.describeHooks(ctx)
	s.waiting = slices.DeleteFunc(s.waiting, func(w waitingInstance) bool { _, known := hooks[w.Group]; return !known })
	s.forEach(ctx, "heartbeats", len(s.waiting), func(n int) {
		w := &s.waiting[n]
		err := heartbeater{hooks: s.Hooks, termination: w.Termination, log: s.Log, stats: &heartbeatStats{}}.send(ctx, heartbeatTimeout)
		if w.hook, w.accepted = hooks[w.Group], err == nil; !errors.Is(err, ErrNoActiveAction) {
			s.addError(err)
		}
	})
	s.waiting = slices.DeleteFunc(s.waiting, func(w waitingInstance) bool { return !w.accepted })
	s.report.Heartbeats = len(s.waiting)
	for _, w := range s.waiting {
		if w.warm {
			s.report.Waiting++
		}
	}
}

// describeHooks returns our hooks of the groups in which instances wait; nil: a hook could not be described. Groups without our hook
// are missing: instances that wait there wait on hooks of others. So do those whose hook of our name is for launches: instances of a warm
// pool may wait on it, and Auto Scaling would accept our heartbeats.
func (s *sweep) describeHooks(ctx context.Context) map[string]*Hook {
	groups, hooks := groupsOf(s.undrained()), map[string]*Hook{}
	s.forEach(ctx, "hooks of groups", len(groups), func(n int) {
		hook, err := s.Hooks.Describe(ctx, groups[n], s.Policy.Hook)
		if errors.Is(err, ErrNoHook) || err == nil && hook.Launching {
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

// undrained returns the instances that wait, and that no invocation drains.
func (s *sweep) undrained() []Termination {
	all := make([]Termination, len(s.waiting))
	for n, w := range s.waiting {
		all[n] = w.Termination
	}
	return all
}

func groupsOf(waiting []Termination) []string {
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
		s.report.Errors = append(s.report.Errors, drain.Short(err.Error()))
	}
}

// forEach is inOrder in a random order. Otherwise every sweep of a throttled account would reach the same first ones, and the rest would never
// get a heartbeat.
func (s *sweep) forEach(ctx context.Context, what string, n int, do func(int)) {
	order := rand.Perm(n)
	s.inOrder(ctx, what, n, func(item int) { do(order[item]) })
}

// inOrder calls do for 0 to n-1, a few at a time. Once ctx has ended it begins no more, and the report says how many it did not reach.
func (s *sweep) inOrder(ctx context.Context, what string, n int, do func(int)) {
	begun := inParallel(ctx, n, func(item int) {
		defer s.recover(what)
		do(item)
	})
	if begun < n {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		s.report.Unreached = append(s.report.Unreached, fmt.Sprintf("%s: %d of %d: %v", what, n-begun, n, context.Cause(ctx)))
	}
}

// inParallel calls do for 0 to n-1, a few at a time. Once ctx has ended it begins no more. It returns how many it began.
func inParallel(ctx context.Context, n int, do func(int)) (begun int) {
	slots := make(chan struct{}, sweepConcurrency)
	var group sync.WaitGroup
	for ; begun < n && acquireSlot(ctx, slots); begun++ {
		item := begun
		group.Go(func() {
			defer func() { <-slots }()
			do(item)
		})
	}
	group.Wait()
	return begun
}

// recover turns a panic into an error. One node must not keep the sweep from the others.
func (s *sweep) recover(what string) {
	if p := recover(); p != nil {
		s.addError(fmt.Errorf("%s: panic: %v", what, p))
	}
}

// acquireSlot reports whether there was a slot before ctx ended.
func acquireSlot(ctx context.Context, slots chan<- struct{}) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}
