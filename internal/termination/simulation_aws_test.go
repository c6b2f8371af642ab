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
	// terminationTime is how long an instance whose action is over still runs.
	terminationTime = 3 * time.Second
	// warmTime is how long one lies in its warm pool.
	warmTime = time.Minute
	// maxRetained is how often an instance is retained before its group gives it up.
	maxRetained = 2
	// kubeletSilence is what the node controller bears.
	kubeletSilence = 40 * time.Second
	// spotNotice is what EC2 gives, and noticeDelay what of it goes by until the notice is in the queue.
	spotNotice  = 2 * time.Minute
	noticeDelay = 8 * time.Second
	// maxReceives is the queue's own patience.
	maxReceives = 1000
)

var falseEventKinds = []string{"unknown instance", "in service", "another group", "another hook", "malformed"}

// simInstance is an instance: its states, its lifecycle actions, and its node.
type simInstance struct {
	plan         instancePlan
	id           string
	states       []stateChange
	action       *simAction // the one it is in, or was in last; nil: none yet
	past         []*simAction
	node         *simNode
	leaseHolders []*simInvocation // that believe to have its lease
	dead         bool
	reclaimed    bool // by EC2
	broken       bool // the machine is gone; Auto Scaling has not noticed

	interrupted time.Time // EC2 said so then; zero: it has not
	recommended time.Time // likewise
}

type stateChange struct {
	since time.Time
	name  string
}

// simAction is one lifecycle action.
type simAction struct {
	token     string
	began     time.Time
	timer     *time.Timer // runs the hook out
	heldSince time.Time   // first, by who drains
	over      bool
	result    Result // empty: it ran out
	endedAt   time.Time
}

// state is the state as Auto Scaling has it; as described, it is older.
func (c *simInstance) state() string { return c.states[len(c.states)-1].name }

func (c *simInstance) described(at time.Time) string {
	for _, s := range slices.Backward(c.states) {
		if !s.since.After(at) {
			return s.name
		}
	}
	return inService
}

func (c *simInstance) isWaiting() bool { return c.action != nil && !c.action.over }

func (s *simulation) enter(c *simInstance, name string) {
	c.states = append(c.states, stateChange{time.Now(), name})
	s.note(nil, "state", c.id+" "+name)
}

// terminate begins a lifecycle action, and sends its events.
func (s *simulation) terminate(c *simInstance) {
	if c.dead {
		return
	}
	if c.action == nil {
		s.scheduleFailures(c)
	}
	if c.action != nil {
		c.past = append(c.past, c.action)
	}
	a := &simAction{token: fmt.Sprintf("%s-%d", c.id, len(c.past)), began: time.Now()}
	c.action = a
	s.enter(c, "Terminating:Wait")
	a.timer = time.AfterFunc(s.hook.HeartbeatTimeout, s.locked(func() { s.end(c, a, "") }))
	if len(c.plan.events) == 0 {
		s.counts["event lost"]++
	}
	for n, delay := range c.plan.events {
		if n > 0 {
			s.counts["event duplicated"]++
		}
		s.later(delay, func() { s.send(s.eventOf(c, a)) })
	}
}

func (s *simulation) eventOf(c *simInstance, a *simAction) string {
	return encode(Termination{Group: theGroup, Hook: theHook, Token: a.token, InstanceID: c.id, Began: a.began})
}

func encode(t Termination) string {
	text, _ := json.Marshal(t)
	return string(text)
}

// end is what comes after an action, whether it was completed or ran out.
func (s *simulation) end(c *simInstance, a *simAction, result Result) {
	if a.over {
		return
	}
	a.timer.Stop()
	a.over, a.result, a.endedAt = true, result, time.Now()
	if result == "" {
		s.note(nil, "ran out", c.id)
	}
	s.checkActionEnd(c, a)
	left := time.Until(a.began.Add(c.plan.otherHook))
	switch abandoned := result != Continue; {
	case c.dead:
	case c.plan.returns && len(c.past) == 0:
		s.returnToService(c)
	case abandoned && s.retains && len(c.past) < maxRetained:
		s.retain(c)
	case !abandoned && left > 0:
		s.counts["second hook"]++
		s.later(left, func() { s.proceed(c) })
	default:
		s.proceed(c)
	}
}

func (s *simulation) proceed(c *simInstance) {
	if c.dead {
		return
	}
	s.enter(c, "Terminating:Proceed")
	s.later(terminationTime, func() { s.die(c) })
}

// retain keeps an instance, as the group's policy wants it, until somebody terminates it anew.
func (s *simulation) retain(c *simInstance) {
	s.counts["instance retained"]++
	s.enter(c, "Terminating:Retained")
	old := c.action
	s.later(c.plan.again, func() {
		s.checkNotPaused(c)
		s.terminate(c)
		if c.plan.replayed > 0 {
			s.counts["event stale"]++
			s.send(s.eventOf(c, old))
		}
	})
}

// scheduleFailures begin with the first termination.
func (s *simulation) scheduleFailures(c *simInstance) {
	if c.plan.kubeletLost > 0 {
		s.later(c.plan.kubeletLost, func() { s.counts["kubelet lost"]++; s.disconnect(c) })
	}
	if c.plan.machineBreaks > 0 {
		s.later(c.plan.machineBreaks, func() { s.counts["machine died"]++; s.breakMachine(c) })
	}
}

func (s *simulation) disconnect(c *simInstance) {
	c.node.lostAt = time.Now()
	s.note(nil, "kubelet lost", c.id)
	c.node.notifyWatchers()
	if c.plan.kubeletBack > 0 {
		s.later(c.plan.kubeletBack, func() { s.reconnect(c) })
	}
}

func (s *simulation) reconnect(c *simInstance) {
	if c.broken {
		return
	}
	s.note(nil, "kubelet heard", c.id)
	c.node.lostAt, c.node.reconnectedAt = time.Time{}, time.Now()
	for _, p := range c.node.pods {
		if p.overdue {
			s.stopped(c.node, p)
		}
	}
	c.node.notifyWatchers()
}

// breakMachine has the machine be gone, of which its kubelet's silence tells a while later.
func (s *simulation) breakMachine(c *simInstance) {
	if c.dead || c.plan.returns {
		return
	}
	c.broken = true
	s.note(nil, "machine died", c.id)
	s.later(kubeletSilence, func() {
		if c.node.lostAt.IsZero() {
			s.disconnect(c)
		}
	})
}

// scheduleTriggers are what EC2 says of a Spot instance.
func (s *simulation) scheduleTriggers(c *simInstance) {
	if c.plan.recommended > 0 {
		s.later(c.plan.recommended, func() { c.recommended = time.Now(); s.sendTrigger(c, RebalanceRecommendation) })
	}
	if c.plan.interrupted > 0 {
		s.later(c.plan.interrupted, func() { c.interrupted = time.Now(); s.sendTrigger(c, SpotInterruption) })
		s.later(c.plan.interrupted+spotNotice, func() { s.reclaim(c) })
	}
}

func (s *simulation) sendTrigger(c *simInstance, n Trigger) {
	if c.dead {
		return
	}
	s.counts[string(n)]++
	t := Termination{InstanceID: c.id, Began: time.Now(), Trigger: n}
	s.later(c.plan.begins%noticeDelay, func() { s.send(encode(t)) })
}

// reclaim is EC2 taking its machine back, whatever waits for what.
func (s *simulation) reclaim(c *simInstance) {
	if c.dead || c.state() == "Terminating:Proceed" {
		return
	}
	s.counts["machine reclaimed"]++
	c.reclaimed = true
	if a := c.action; c.isWaiting() {
		a.timer.Stop()
		a.over, a.endedAt = true, time.Now()
	}
	s.die(c)
}

func (s *simulation) returnToService(c *simInstance) {
	s.enter(c, "Warmed:Stopped")
	first := c.action
	s.later(warmTime, func() {
		c.node.restart(c.plan.hibernates)
		s.enter(c, inService)
		if c.plan.replayed > 0 {
			s.later(c.plan.replayed, func() { s.counts["event stale"]++; s.send(s.eventOf(c, first)) })
		}
		s.later(c.plan.again, func() { s.checkRestored(c); s.terminate(c) })
	})
}

// simAWS implements Groups, Fleet and Hooks for one incarnation.
type simAWS struct{ *simInvocation }

func (f simAWS) Instances(ctx context.Context, group string) (all []Instance, err error) {
	err = f.ask(ctx, aws, func() error {
		f.verified = true
		if group == theGroup {
			all = f.s.describe()
		}
		return nil
	})
	return all, err
}

func (s *simulation) describe() (all []Instance) {
	for _, c := range s.instances {
		if !c.dead {
			all = append(all, Instance{ID: c.id, Zone: "a", State: c.described(time.Now().Add(-s.lag))})
		}
	}
	return all
}

func (f simAWS) GroupOf(ctx context.Context, id string) (group string, err error) {
	err = f.ask(ctx, aws, func() error {
		f.verified = true
		if c := f.s.instance(id); c != nil && !c.dead {
			group = theGroup
		}
		return nil
	})
	return group, err
}

func (f simAWS) EC2Instances(ctx context.Context, ids ...string) (map[string]EC2Instance, error) {
	machines := map[string]EC2Instance{}
	return machines, f.ask(ctx, aws, func() error {
		for _, id := range ids {
			if c := f.s.instance(id); c != nil {
				machines[id] = EC2Instance{PrivateDNS: c.node.name, Terminated: c.dead || c.broken, Spot: c.plan.spot}
			}
		}
		return nil
	})
}

func (f simAWS) List(ctx context.Context, _ ...string) iter.Seq2[Group, error] {
	return func(yield func(Group, error) bool) {
		all, err := f.Instances(ctx, theGroup)
		if yield(Group{theGroup, all}, err) {
			yield(Group{"another", nil}, nil)
		}
	}
}

func (f simAWS) ActivityStarts(ctx context.Context, _ string) (map[string]time.Time, error) {
	began := map[string]time.Time{}
	return began, f.ask(ctx, aws, func() error {
		for _, c := range f.s.instances {
			if c.isWaiting() {
				began[c.id] = c.action.began
			}
		}
		return nil
	})
}

func (f simAWS) Describe(ctx context.Context, _, _ string) (hook Hook, err error) {
	return f.s.hook, f.ask(ctx, aws, func() error { return nil })
}

func (f simAWS) Heartbeat(ctx context.Context, t Termination) error {
	return f.effect(ctx, aws, "heartbeat", t.InstanceID, func() error {
		c, err := f.s.active(t)
		if err == nil {
			c.action.timer.Reset(f.s.hook.HeartbeatTimeout)
		}
		return err
	})
}

func (f simAWS) Complete(ctx context.Context, t Termination, result Result) error {
	err := f.effect(ctx, aws, "complete", t.InstanceID, func() error {
		f.checkCompleteOnce(t.InstanceID)
		c, err := f.s.active(t)
		if err == nil {
			f.checkComplete(c, result)
			f.s.end(c, c.action, result)
		}
		return err
	})
	if err == nil {
		f.s.locked(func() { f.completed[t.InstanceID] = true })()
	}
	return err
}

// active is the instance whose action is under way; a token must be that action's own.
func (s *simulation) active(t Termination) (*simInstance, error) {
	c := s.instance(t.InstanceID)
	if c == nil || !c.isWaiting() || (t.Token != "" && t.Token != c.action.token) {
		return nil, ErrNoActiveAction
	}
	return c, nil
}

func (s *simulation) instance(id string) *simInstance {
	if i := slices.IndexFunc(s.instances, func(c *simInstance) bool { return c.id == id }); i >= 0 {
		return s.instances[i]
	}
	return nil
}

// simMessage is a message in the queue.
type simMessage struct {
	id, body  string
	receives  int
	first     time.Time
	visibleAt time.Time
}

func (s *simulation) send(body string) {
	if s.over {
		return
	}
	s.sent++
	s.messages = append(s.messages, &simMessage{id: fmt.Sprintf("m-%d", s.sent), body: body, visibleAt: time.Now()})
	s.poke()
}

func (s *simulation) poke() {
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// receive takes what is visible, one batch; and if there is nothing, tells when there will be.
func (s *simulation) receive() (batch []*simMessage, next time.Duration) {
	next = time.Hour
	for _, l := range s.messages {
		if wait := time.Until(l.visibleAt); wait > 0 {
			next = min(next, wait)
		} else if len(batch) < s.batch {
			l.receives++
			l.visibleAt = time.Now().Add(s.invocationTime + hiddenTime)
			if l.first.IsZero() {
				l.first = time.Now()
			}
			if l.receives > maxReceives {
				s.violate("%s was delivered too often", l.id)
			}
			batch = append(batch, l)
		}
	}
	return batch, next
}

func (s *simulation) acknowledge(batch []*simMessage, failures []failedItem) {
	for _, l := range batch {
		if !slices.Contains(failures, failedItem{l.id}) {
			s.messages = slices.DeleteFunc(s.messages, func(other *simMessage) bool { return other == l })
		}
	}
}

// deliver is the event source mapping.
func (s *simulation) deliver(ctx context.Context) {
	for ctx.Err() == nil {
		s.mu.Lock()
		batch, next := s.receive()
		s.mu.Unlock()
		if len(batch) > 0 {
			s.running.Go(func() { s.invoke(ctx, batch) })
			continue
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-s.arrived:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (l *simMessage) record() Record {
	record := Record{MessageID: l.id, ReceiptHandle: l.id, Receives: l.receives, FirstReceived: l.first, Body: l.body}
	if strings.HasPrefix(l.body, "malformed") {
		record.Malformed = errors.New(l.body)
		return record
	}
	t := Termination{}
	if err := json.Unmarshal([]byte(l.body), &t); err != nil {
		record.Malformed = err
		return record
	}
	record.Termination = &t
	return record
}

// simQueue implements Queue and DeadLetters for one incarnation.
type simQueue struct{ *simInvocation }

func (m simQueue) Hide(ctx context.Context, handle string, d time.Duration) error {
	return m.effect(ctx, aws, "hide", handle, func() error {
		if i := slices.IndexFunc(m.s.messages, func(l *simMessage) bool { return l.id == handle }); i >= 0 {
			m.s.messages[i].visibleAt = time.Now().Add(d)
			m.s.poke()
		}
		return nil
	})
}

func (m simQueue) Send(ctx context.Context, body string) error {
	return m.effect(ctx, aws, "send", body, func() error { m.s.send(body); return nil })
}

func (m simQueue) Backlog(ctx context.Context) (waiting, underWay int, err error) {
	err = m.ask(ctx, aws, func() error {
		for _, l := range m.s.messages {
			if time.Now().Before(l.visibleAt) {
				underWay++
			} else {
				waiting++
			}
		}
		return nil
	})
	return waiting, underWay, err
}

func (m simQueue) SendToDLQ(ctx context.Context, record Record) error {
	return m.effect(ctx, aws, "to DLQ", record.MessageID, func() error {
		m.s.deadLettered[record.Body] = true
		if record.Malformed == nil {
			m.s.violate("%s was buried, and was an event", record.MessageID)
		}
		return nil
	})
}
