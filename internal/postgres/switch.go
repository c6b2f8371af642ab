package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

const (
	// keyLead is how long before the leader's next loop the poolers are paused at least, when the request is only noticed by that loop: time
	// for the pause and the last check. It is twice what the same reads took before, because a request that comes too late waits for a whole loop.
	keyLead, maxKeyLead = 600 * time.Millisecond, 3 * time.Second
	// scheduleLead is how far ahead a request is scheduled. Patroni's loop waits for the rest of it. A request with a time is one that
	// Patroni discards when its loop comes more than a loop and a half too late: nothing happens when it is no longer expected
	// (https://github.com/patroni/patroni/blob/v3.0.2/patroni/ha.py, should_run_scheduled_action).
	scheduleLead = time.Second
	// answerGrace is how long the leader may still change after Patroni has answered that it failed: its leader knew that some time before.
	answerGrace = 2 * time.Second
	// withdrawTimeout bounds the withdrawal of a request. Clients wait for it.
	withdrawTimeout = 3 * time.Second
)

// way is how a switchover is requested.
type way interface {
	// wait returns how long to wait before the pause, so that clients wait less. Lead is the time from the pause to the request.
	wait(f Facts, now time.Time, lead time.Duration) time.Duration
	// request asks for the switchover, which is withdrawn at until. It returns an error if nothing happened.
	request(ctx context.Context, m *move, until time.Time) (*asked, error)
}

// asked is a request under way.
type asked struct {
	failover escort.Failover
	version  string     // of the failover object, after the request; empty: it was not written by us
	answer   chan error // of a request over HTTP; nil: there is none any more
	failure  error      // in that answer, which may be wrong
	failedAt time.Time
	abort    func() // of a request over HTTP: returns when it cannot arrive any more
	until    time.Time
}

// unanswered says that there was no answer, if one was expected.
func (a *asked) unanswered() string {
	if a.answer == nil {
		return ""
	}
	return ", and Patroni has not answered the request"
}

// whyFailed returns what Patroni answered, though that may be wrong; empty: nothing bad.
func (a *asked) whyFailed() string {
	if a.failure == nil {
		return ""
	}
	return a.failure.Error()
}

// byREST asks the leader over HTTP, and falls back to the key if it cannot be reached.
type byREST struct{ Asker }

func (byREST) wait(Facts, time.Time, time.Duration) time.Duration { return 0 }

// request does not wait for the answer, which comes when the switchover is over.
func (w byREST) request(ctx context.Context, m *move, until time.Time) (*asked, error) {
	answer := make(chan error, 1)
	leader := *m.facts.LeaderMember()
	sending, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	a := &asked{failover: m.failover(), answer: make(chan error, 1), abort: func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(withdrawTimeout):
		}
	}}
	go func() {
		defer close(ended)
		answer <- safely(func() error { return w.Switchover(sending, leader, m.candidate.Name) })
	}()
	select {
	case err := <-answer:
		if errors.Is(err, ErrNotSent) && m.mayWrite(until) {
			cancel()
			return m.writeInstead(ctx, err, until)
		}
		a.answer <- err
	case <-time.After(pollInterval):
		a.answer = answer
	}
	return a, nil
}

// mayWrite reports whether Patroni, if it follows a request that is written now, does so well before the request is withdrawn. Otherwise it could
// read the request at that moment, and clients would be resumed into the demotion.
func (m *move) mayWrite(until time.Time) bool {
	return time.Until(until) >= m.facts.LoopWait+scheduleLead+answerGrace
}

// writeInstead writes the request that did not reach Patroni over HTTP.
func (m *move) writeInstead(ctx context.Context, notSent error, until time.Time) (*asked, error) {
	why := escort.Printable(notSent.Error())
	m.log.Warn("cannot ask Patroni over HTTP, writing the request instead", "error", why)
	escort.AddReason(m.result, "asked through the Kubernetes API: "+why)
	return byKey{}.request(ctx, m, until)
}

// writeLate is writeInstead when the answer took its time, as that of a network that drops packets does. What was seen before the request is
// old by then, so it is checked once more.
func (m *move) writeLate(ctx context.Context, requested *asked, notSent error) error {
	requested.abort()
	if !m.mayWrite(requested.until) {
		return notSent
	}
	if err := m.lastCheck(ctx); err != nil {
		return err
	}
	if err := m.lost(); err != nil {
		return err
	}
	written, err := m.writeInstead(ctx, notSent, requested.until)
	if err == nil {
		written.until = requested.until
		*requested = *written
	}
	return err
}

// byKey writes Patroni's failover object.
type byKey struct{}

// wait returns the time until shortly before the leader's next loop.
func (byKey) wait(f Facts, now time.Time, lead time.Duration) time.Duration {
	if f.RenewTime.IsZero() || f.LoopWait <= 0 || now.Sub(f.RenewTime) > 2*f.LoopWait {
		return 0
	}
	next := f.RenewTime.Add(f.LoopWait)
	for next.Add(-lead).Before(now) {
		next = next.Add(f.LoopWait)
	}
	return min(next.Add(-lead).Sub(now), f.LoopWait)
}

func (byKey) request(ctx context.Context, m *move, _ time.Time) (*asked, error) {
	a := &asked{failover: m.failover()}
	version, err := m.cluster.RequestSwitchover(ctx, a.failover)
	if err != nil {
		// A request whose answer was lost may have been written. It is looked for, and withdrawn.
		if !m.isTakenOver(ctx) {
			withdraw(ctx, m.log, m.cluster, a.failover)
		}
		return nil, fmt.Errorf("request the switchover: %w", err)
	}
	a.version = version
	return a, nil
}

func (m *move) failover() escort.Failover {
	return escort.Failover{
		Kind: string(m.facts.Mode), Namespace: m.facts.Namespace, Name: m.facts.FailoverObject(), Labels: m.facts.ObjectLabels,
		Version: m.facts.FailoverVersion, Leader: m.facts.Leader, Candidate: m.candidateName(), At: time.Now().Add(scheduleLead),
	}
}

// byEviction evicts the primary: Patroni switches over when it is told to stop. The operator chooses the new primary.
type byEviction struct {
	evict func(ctx context.Context) error
}

func (byEviction) wait(Facts, time.Time, time.Duration) time.Duration { return 0 }

// request is answered by until, though a webhook hangs: poolers must be resumed in time.
func (w byEviction) request(ctx context.Context, m *move, until time.Time) (*asked, error) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	if err := w.evict(ctx); err != nil {
		return nil, err
	}
	return &asked{failover: m.failover()}, nil
}

// lastCheck looks once more before the request. No transaction is open now, so a candidate that has received what the leader has written
// loses nothing.
func (m *move) lastCheck(ctx context.Context) error {
	if m.unnamed {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lastCheckTime, fmt.Errorf("the last check took longer than %v", lastCheckTime))
	defer cancel()
	now, err := m.clusters.Facts(ctx, m.facts.Identity)
	switch {
	case err != nil:
		return hold("cannot read the cluster again: %v", err)
	case now.Leader != m.facts.Leader:
		return hold("the leader changed to %q while poolers were being paused", now.Leader)
	case now.Pending != "":
		return hold("%s has been requested", now.Pending)
	case now.Paused:
		return hold("maintenance mode began while poolers were being paused")
	}
	m.facts.FailoverVersion, m.facts.ObjectLabels = now.FailoverVersion, now.ObjectLabels
	leader, err := m.clusters.Live(ctx, m.facts.Identity, *m.facts.LeaderMember())
	if err != nil || !leader.Live || leader.Role != Primary || leader.LSN == 0 {
		return hold("the leader does not say how far it has written: %v", err)
	}
	if leader, err = m.awaitQuiet(ctx, leader); err != nil {
		return err
	}
	return m.awaitCandidate(ctx, leader)
}

// awaitCandidate waits until the candidate has what the leader has written.
func (m *move) awaitCandidate(ctx context.Context, leader LiveState) error {
	var behind LSN
	var failure error
	err := escort.Poll(ctx, time.Now().Add(lastCheckTime), pollInterval, func() (bool, error) {
		state, err := m.clusters.Live(ctx, m.facts.Identity, *m.candidate)
		if failure = err; err != nil {
			return false, nil
		}
		if !state.Live || state.Role != Replica || !m.isSameTimeline(state, leader) || state.NoFailover {
			return false, hold("candidate %s is not a replica of timeline %d that may be promoted", m.candidate.Name, leader.Timeline)
		}
		behind = state.LSN.Behind(leader.LSN)
		return behind == 0, nil
	})
	_, held := errors.AsType[*drain.Held](err)
	switch {
	case err == nil, held:
		return err
	case failure != nil:
		return hold("candidate %s does not answer: %v", m.candidate.Name, failure)
	}
	return hold("candidate %s is %d bytes behind and did not catch up while clients waited", m.candidate.Name, behind)
}

// request asks for the switchover, and waits until another member leads.
func (m *move) request(ctx context.Context, deadline time.Time) error {
	requested, err := m.way.request(ctx, m, deadline)
	if err != nil {
		return hold("%v", err)
	}
	if m.unnamed {
		requested.failover.Kind = ""
	}
	requested.until = deadline
	m.log.Info("switchover requested", "leader", m.facts.Leader, "candidate", m.candidateName())
	err = escort.Poll(ctx, deadline, pollInterval, func() (bool, error) { return m.poll(ctx, requested) })
	if err == nil {
		return nil
	}
	if requested.abort != nil {
		requested.abort()
	}
	if m.isTakenOver(ctx) {
		m.withdrawOwn(ctx, requested)
	} else {
		withdraw(ctx, m.log, m.cluster, requested.failover)
	}
	if m.lookOnce(ctx) {
		return nil
	}
	if held := m.checkBegun(ctx); held != nil {
		return held
	}
	if escort.IgnoreTimeout(err) == nil {
		return hold("no other member led within %v%s%s", m.limit-resumeReserve, because(requested.whyFailed()), requested.unanswered())
	}
	return hold("%v", err)
}

// poll looks whether another member leads, or the request was refused.
func (m *move) poll(ctx context.Context, requested *asked) (bool, error) {
	if m.lease.Lost() != nil {
		return false, m.lost()
	}
	leader, ok := m.leader(ctx)
	if ok && leader != "" && leader != m.facts.Leader {
		m.moved = leader
		return true, nil
	}
	select {
	case err := <-requested.answer:
		if errors.Is(err, ErrNotSent) {
			return false, m.writeLate(ctx, requested, err)
		}
		if refusal, is := errors.AsType[*Refusal](err); is {
			return false, refusal
		}
		requested.answer = nil // the leader's key decides
		if err != nil {
			requested.failure, requested.failedAt = err, time.Now()
		}
	default:
	}
	if requested.failure != nil && time.Since(requested.failedAt) > answerGrace {
		return false, requested.failure
	}
	if requested.version == "" || !ok || leader != m.facts.Leader {
		return false, nil
	}
	return false, m.checkDiscarded(ctx, requested)
}

// checkDiscarded returns an error if the request is gone though its leader stayed: Patroni says why only in its own log.
func (m *move) checkDiscarded(ctx context.Context, requested *asked) error {
	if !m.facts.Operator.UsesPatroni() {
		return &Refusal{Reason: "CloudNativePG discarded the request; the log of its operator says why"}
	}
	object, err := m.cluster.Annotated(ctx, requested.failover.Kind, requested.failover.Namespace, requested.failover.Name)
	if err != nil || object != nil && isRequested(object, requested.failover) {
		return nil
	}
	if leader, ok := m.leader(ctx); !ok || leader != m.facts.Leader { // it may have changed between the two looks
		return nil
	}
	return &Refusal{Reason: "Patroni discarded the request; its log on " + m.facts.Leader + " says why"}
}

func isRequested(object *escort.Annotated, f escort.Failover) bool {
	return object.Annotations["leader"] == f.Leader && object.Annotations["member"] == f.Candidate
}

// leader returns the name that the leader's key has now; empty: none. It reports false if it could not be read.
func (m *move) leader(ctx context.Context) (name string, ok bool) {
	if !m.facts.Operator.UsesPatroni() {
		return m.clusterLeader(ctx)
	}
	object, err := m.cluster.Annotated(ctx, string(m.facts.Mode), m.facts.Namespace, m.facts.LeaderObject(m.facts.Mode))
	if err != nil || object == nil {
		return "", false
	}
	return object.Annotations["leader"], true
}

// lookOnce looks at the leader once more, after the request was withdrawn.
func (m *move) lookOnce(ctx context.Context) (moved bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawTimeout)
	defer cancel()
	if leader, ok := m.leader(ctx); ok && leader != "" && leader != m.facts.Leader {
		m.moved = leader
	}
	return m.moved != ""
}

// isSameTimeline reports whether a candidate is on its leader's timeline. CloudNativePG's replicas may show the one before, so they must
// stream.
func (m *move) isSameTimeline(candidate, leader LiveState) bool {
	if !m.facts.Operator.UsesPatroni() {
		return candidate.State == streaming
	}
	return candidate.Timeline == leader.Timeline
}
