package termination

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
)

const (
	theGroup = "workers-a"
	theHook  = "quiesce"
	// terminationTime is how long an instance runs after its action has ended.
	terminationTime = 3 * time.Second
	// warmTime is how long an instance stays in its warm pool.
	warmTime = time.Minute
	// maxRetained is how often the group retains an instance.
	maxRetained = 2
	// kubeletSilence is after how long the node controller taints a node as unreachable.
	kubeletSilence = 40 * time.Second
	// spotWarning is how long before the reclaim EC2 warns, and warningDelay bounds how long the event takes to the queue.
	spotWarning  = 2 * time.Minute
	warningDelay = 8 * time.Second
	// maxReceives is after how many deliveries the queue moves a message to the dead-letter queue.
	maxReceives = 1000
)

var falseEventKinds = []string{"unknown instance", "in service", "another group", "another hook", "malformed"}

// simInstance is an instance with its states, its lifecycle actions, and its node.
type simInstance struct {
	plan         instancePlan
	id           string
	states       []stateChange
	action       *simAction // the present one, or the last; nil: none yet
	past         []*simAction
	node         *simNode
	receipts     []time.Time                  // of its events, each the first time
	lastOut      map[*simInvocation]time.Time // when an invocation for an event last saw that it does not wait
	leaseHolders []*simInvocation             // that believe they hold its lease
	dead         bool
	reclaimed    bool // by EC2
	failed       bool // the instance has failed; Auto Scaling does not know yet

	interrupted time.Time // when EC2 sent a Spot interruption; zero: never
	recommended time.Time // likewise
}

type stateChange struct {
	since time.Time
	name  string
}

// simAction is one lifecycle action.
type simAction struct {
	token     string
	activity  time.Time // when its activity began: connections drain before the instance waits
	began     time.Time
	timer     *time.Timer // ends the hook's timeout
	heldSince time.Time   // since when an invocation holds the lease; zero: none does
	over      bool
	result    Result // empty: the hook's timeout ended
	endedAt   time.Time
}

// state returns the present state. A description can be older.
func (inst *simInstance) state() string { return inst.states[len(inst.states)-1].name }

func (inst *simInstance) described(at time.Time) string {
	for _, s := range slices.Backward(inst.states) {
		if !s.since.After(at) {
			return s.name
		}
	}
	return inService
}

func (inst *simInstance) isWaiting() bool { return inst.action != nil && !inst.action.over }

func (s *simulation) enter(inst *simInstance, name string) {
	inst.states = append(inst.states, stateChange{time.Now(), name})
	s.note(nil, "state", inst.id+" "+name)
}

// terminate starts a lifecycle action, and sends its events.
func (s *simulation) terminate(inst *simInstance) {
	if inst.dead {
		return
	}
	if inst.action == nil {
		s.scheduleFailures(inst)
	}
	if inst.action != nil {
		inst.past = append(inst.past, inst.action)
	}
	a := &simAction{token: fmt.Sprintf("%s-%d", inst.id, len(inst.past)), activity: time.Now().Add(-inst.plan.deregistration), began: time.Now()}
	inst.action = a
	s.enter(inst, "Terminating:Wait")
	a.timer = time.AfterFunc(s.hook.HeartbeatTimeout, s.locked(func() { s.end(inst, a, "") }))
	if len(inst.plan.events) == 0 {
		s.counts["event lost"]++
	}
	for n, delay := range inst.plan.events {
		if n > 0 {
			s.counts["event duplicated"]++
		}
		s.later(delay, func() { s.send(s.eventOf(inst, a)) })
	}
}

func (s *simulation) eventOf(inst *simInstance, a *simAction) string {
	return encode(Termination{Group: theGroup, Hook: theHook, Token: a.token, InstanceID: inst.id, Began: a.began})
}

func encode(t Termination) string {
	text, _ := json.Marshal(t)
	return string(text)
}

// end ends an action that was completed, or whose hook timed out, and starts what follows.
func (s *simulation) end(inst *simInstance, a *simAction, result Result) {
	if a.over {
		return
	}
	a.timer.Stop()
	a.over, a.result, a.endedAt = true, result, time.Now()
	if result == "" {
		s.note(nil, "timed out", inst.id)
	}
	s.checkActionEnd(inst, a)
	remaining := time.Until(a.began.Add(inst.plan.otherHook))
	switch abandoned := result != Continue; {
	case inst.dead:
	case inst.plan.returns && len(inst.past) == 0:
		s.returnToService(inst)
	case abandoned && s.retains && len(inst.past) < maxRetained:
		s.retain(inst)
	case !abandoned && remaining > 0:
		s.counts["second hook"]++
		s.later(remaining, func() { s.proceed(inst) })
	default:
		s.proceed(inst)
	}
}

func (s *simulation) proceed(inst *simInstance) {
	if inst.dead {
		return
	}
	s.enter(inst, "Terminating:Proceed")
	s.later(terminationTime, func() { s.die(inst) })
}

// retain keeps an instance, as the group's policy says, until it is terminated again.
func (s *simulation) retain(inst *simInstance) {
	s.counts["instance retained"]++
	s.enter(inst, "Terminating:Retained")
	old := inst.action
	s.later(inst.plan.terminatedAgain, func() {
		s.checkNotPaused(inst)
		s.terminate(inst)
		if inst.plan.replayed > 0 {
			s.counts["event stale"]++
			s.send(s.eventOf(inst, old))
		}
	})
}

// scheduleFailures starts the instance's failures with its first termination.
func (s *simulation) scheduleFailures(inst *simInstance) {
	if inst.plan.kubeletLost > 0 {
		s.later(inst.plan.kubeletLost, func() { s.counts["kubelet lost"]++; s.disconnect(inst) })
	}
	for _, after := range inst.plan.uncordoned {
		s.later(after, func() { s.uncordon(inst) })
	}
	if inst.plan.fails > 0 {
		s.later(inst.plan.fails, func() { s.counts["instance failed"]++; s.failInstance(inst) })
	}
}

// uncordon opens the node, as a person may.
func (s *simulation) uncordon(inst *simInstance) {
	if inst.dead || !inst.node.closed {
		return
	}
	s.counts["node uncordoned by someone"]++
	s.note(nil, "uncordoned", inst.id)
	inst.node.closed, inst.node.uncordonedAt = false, time.Now()
	inst.node.notifyWatchers()
}

func (s *simulation) disconnect(inst *simInstance) {
	inst.node.lostAt = time.Now()
	s.note(nil, "kubelet lost", inst.id)
	inst.node.notifyWatchers()
	if inst.plan.kubeletBack > 0 {
		s.later(inst.plan.kubeletBack, func() { s.reconnect(inst) })
	}
}

func (s *simulation) reconnect(inst *simInstance) {
	if inst.failed {
		return
	}
	s.note(nil, "kubelet reachable", inst.id)
	inst.node.lostAt, inst.node.reconnectedAt = time.Time{}, time.Now()
	for _, p := range inst.node.pods {
		if p.overdue {
			s.stopped(inst.node, p)
		}
	}
	inst.node.notifyWatchers()
}

// failInstance makes the instance fail. Its kubelet's silence shows it a while later.
func (s *simulation) failInstance(inst *simInstance) {
	if inst.dead || inst.plan.returns {
		return
	}
	inst.failed = true
	s.note(nil, "instance failed", inst.id)
	s.later(kubeletSilence, func() {
		if inst.node.lostAt.IsZero() {
			s.disconnect(inst)
		}
	})
}

// scheduleTriggers schedules what EC2 sends about a Spot instance.
func (s *simulation) scheduleTriggers(inst *simInstance) {
	if inst.plan.recommended > 0 {
		s.later(inst.plan.recommended, func() { inst.recommended = time.Now(); s.sendTrigger(inst, RebalanceRecommendation) })
	}
	if inst.plan.interrupted > 0 {
		s.later(inst.plan.interrupted, func() { inst.interrupted = time.Now(); s.sendTrigger(inst, SpotInterruption) })
		s.later(inst.plan.interrupted+spotWarning, func() { s.reclaim(inst) })
	}
}

// reclaim takes the instance away, even if hooks wait.
func (s *simulation) reclaim(inst *simInstance) {
	if inst.dead || inst.state() == "Terminating:Proceed" {
		return
	}
	s.counts["instance reclaimed"]++
	inst.reclaimed = true
	if a := inst.action; inst.isWaiting() {
		a.timer.Stop()
		a.over, a.endedAt = true, time.Now()
	}
	s.die(inst)
}

func (s *simulation) returnToService(inst *simInstance) {
	s.enter(inst, "Warmed:Stopped")
	first := inst.action
	s.later(warmTime, func() {
		inst.node.restart(inst.plan.hibernates)
		s.enter(inst, inService)
		if inst.plan.replayed > 0 {
			s.later(inst.plan.replayed, func() { s.counts["event stale"]++; s.send(s.eventOf(inst, first)) })
		}
		s.later(inst.plan.terminatedAgain, func() { s.checkRestored(inst); s.terminate(inst) })
	})
}

// simAWS implements Groups and Hooks for one invocation.
type simAWS struct{ *simInvocation }

// Group verifies nothing: it only says whether the group is ours, and who the peers are.
func (f simAWS) Group(ctx context.Context, name string) (group Group, err error) {
	err = f.ask(ctx, aws, func() error {
		if name == theGroup {
			group = Group{Name: theGroup, Tags: map[string]string{"ours": "yes"}, Instances: f.s.describe(), WarmPool: true}
		}
		return nil
	})
	return group, err
}

// describe returns what DescribeAutoScalingGroups does: not the instances of the warm pool.
func (s *simulation) describe() (all []Instance) {
	for _, inst := range s.instances {
		if i := s.describeInstance(inst); i.Group != "" && !strings.HasPrefix(i.State, "Warmed:") {
			all = append(all, i)
		}
	}
	return all
}

func (s *simulation) describeInstance(inst *simInstance) Instance {
	if inst.dead {
		return Instance{ID: inst.id}
	}
	return Instance{ID: inst.id, Group: theGroup, Zone: "a", State: inst.described(time.Now().Add(-s.lag))}
}

func (f simAWS) Instance(ctx context.Context, id string) (found Instance, err error) {
	err = f.ask(ctx, aws, func() error {
		f.verified, found = true, Instance{ID: id}
		if inst := f.s.instance(id); inst != nil {
			found = f.s.describeInstance(inst)
			if !f.sweeps && !found.isWaiting() {
				inst.lastOut[f.simInvocation] = time.Now()
			}
		}
		return nil
	})
	return found, err
}

func (f simAWS) WarmPool(ctx context.Context, _ string) (all []Instance, err error) {
	err = f.ask(ctx, aws, func() error {
		for _, inst := range f.s.instances {
			if i := f.s.describeInstance(inst); strings.HasPrefix(i.State, "Warmed:") {
				all = append(all, i)
			}
		}
		return nil
	})
	return all, err
}

func (f simAWS) SpotInterrupted(ctx context.Context, id string) (since time.Time, interrupted bool, err error) {
	err = f.ask(ctx, aws, func() error {
		inst := f.s.instance(id)
		if inst != nil {
			since, interrupted = inst.interrupted, !inst.interrupted.IsZero()
		}
		return nil
	})
	return since, interrupted, err
}

func (f simAWS) EC2Instances(ctx context.Context, ids ...string) (map[string]EC2Instance, error) {
	known := map[string]EC2Instance{}
	return known, f.ask(ctx, aws, func() error {
		for _, id := range ids {
			if inst := f.s.instance(id); inst != nil {
				known[id] = EC2Instance{PrivateDNS: inst.node.name, Terminated: inst.dead || inst.failed, Spot: inst.plan.spot}
			}
		}
		return nil
	})
}

func (f simAWS) List(ctx context.Context, _ ...string) iter.Seq2[Group, error] {
	return func(yield func(Group, error) bool) {
		f.s.locked(func() { f.verified = true })()
		if group, err := f.Group(ctx, theGroup); yield(group, err) {
			yield(Group{Name: "another"}, nil)
		}
	}
}

func (f simAWS) ScheduledChanges(ctx context.Context) ([]ScheduledChange, error) {
	return nil, f.ask(ctx, aws, func() error { return nil })
}

func (f simAWS) Terminate(context.Context, string) error {
	return errors.New("the simulation schedules no change")
}

func (f simAWS) ActivityStarts(ctx context.Context, _ string) (map[string]time.Time, error) {
	began := map[string]time.Time{}
	return began, f.ask(ctx, aws, func() error {
		for _, inst := range f.s.instances {
			if inst.isWaiting() {
				began[inst.id] = inst.action.activity
			}
		}
		return nil
	})
}

func (f simAWS) TerminationEnds(ctx context.Context, _ string, _ ...string) (map[string]time.Time, error) {
	return nil, f.ask(ctx, aws, func() error { return nil })
}

func (f simAWS) Describe(ctx context.Context, _, _ string) (hook Hook, err error) {
	return f.s.hook, f.ask(ctx, aws, func() error { return nil })
}

func (f simAWS) Put(context.Context, string, string, Hook) error { panic("no hook is missing") }
func (f simAWS) Delete(context.Context, string, string) error    { panic("no hook is removed") }

func (f simAWS) Heartbeat(ctx context.Context, t Termination) error {
	return f.effect(ctx, aws, "heartbeat", t.InstanceID, func() error {
		inst, err := f.s.active(t)
		if err == nil {
			inst.action.timer.Reset(f.s.hook.HeartbeatTimeout)
		}
		return err
	})
}

func (f simAWS) Complete(ctx context.Context, t Termination, result Result) error {
	err := f.effect(ctx, aws, "complete", t.InstanceID, func() error {
		f.checkCompleteOnce(t.InstanceID)
		inst, err := f.s.active(t)
		if err == nil {
			f.checkComplete(inst, result)
			f.s.end(inst, inst.action, result)
		}
		return err
	})
	if err == nil {
		f.s.locked(func() { f.completed[t.InstanceID] = true })()
	}
	return err
}

// active returns the instance whose action is active. A token must be that action's own.
func (s *simulation) active(t Termination) (*simInstance, error) {
	inst := s.instance(t.InstanceID)
	if inst == nil || !inst.isWaiting() || (t.Token != "" && t.Token != inst.action.token) {
		return nil, ErrNoActiveAction
	}
	return inst, nil
}

func (s *simulation) instance(id string) *simInstance {
	if i := slices.IndexFunc(s.instances, func(inst *simInstance) bool { return inst.id == id }); i >= 0 {
		return s.instances[i]
	}
	return nil
}
func (s *simulation) sendTrigger(inst *simInstance, n Trigger) {
	if inst.dead {
		return
	}
	s.counts[string(n)]++
	t := Termination{InstanceID: inst.id, Began: time.Now(), Trigger: n}
	s.later(inst.plan.terminatedAt%warningDelay, func() { s.send(encode(t)) })
}
