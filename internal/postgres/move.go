package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

const (
	// pauseTime is how long the poolers' open transactions may take to end. Longer, and clients wait for a few slow ones.
	pauseTime = 10 * time.Second
	// loginRetry is for how many seconds clients wait after a connection has failed, while the primary moves. By default 15 s
	// (https://www.pgbouncer.org/config.html#server_login_retry): one attempt that comes too early would cost more than the whole move.
	loginRetry = "1"
	// lastCheckTime bounds the last look before the request, while clients wait: a few reads and the wait for the candidate's WAL receiver.
	lastCheckTime = 3 * time.Second
	// staleAfter is how long a look at poolers may take until it is checked once more: the request must follow a fresh look at the
	// leader. Consoles answer in milliseconds, so that clients rarely wait for it.
	staleAfter = 300 * time.Millisecond
	// pollInterval is between two looks while clients wait. A new leader is noticed soon, at a few requests a second.
	pollInterval = 250 * time.Millisecond
	// resumeReserve is kept at the end of the hold: to withdraw a request, to look once more, and to resume.
	resumeReserve = 5 * time.Second
	// queryWaitReserve is kept between the end of the hold and query_wait_timeout, at which pgbouncer fails every client that waits. It has
	// room for a RESUME that is tried again and again. If the function dies, its message comes later: then that timeout frees clients.
	queryWaitReserve = 30 * time.Second
	// queryTimeReserve is kept between the end of the hold and query_timeout, at which pgbouncer disconnects every client that waits. It has
	// room for a RESUME that is tried twice. More would keep primaries behind poolers with the usual 30 s from moving at all.
	queryTimeReserve = 5 * time.Second
	// minHold is the least that a switchover gets: twice what one takes with Patroni, kube-proxy included.
	minHold = 10 * time.Second
	// invocationReserve is what a move needs of the invocation beyond the hold: to open consoles before it, and to reconnect and verify.
	invocationReserve = 15 * time.Second
	// followTime bounds the wait until the Services lead to the new primary. kube-proxy needs a second more.
	followTime = 10 * time.Second
	// followMargin is for kube-proxy on the poolers' nodes, if no alias proves that clients reach the new primary. Its minSyncPeriod is 1 s
	// (https://kubernetes.io/docs/reference/config-api/kube-proxy-config.v1alpha1/).
	followMargin = 1500 * time.Millisecond
	// proofTries is how many writes must succeed, proofInterval apart: two nodes' kube-proxies may be at different points.
	proofTries    = 2
	proofInterval = 500 * time.Millisecond
	// reconnectDelay is between RESUME and RECONNECT. Connections that a slower kube-proxy led to the old primary are closed then.
	reconnectDelay = 3 * time.Second
)

// move is one move of a primary.
type move struct {
	*Escort
	log      *slog.Logger
	cluster  Cluster
	clusters Clusters
	way      way
	save     func(ctx context.Context, record json.RawMessage) error // in the drain's record; nil: there is no drain
	result   *drain.EscortResult
	rehearse bool // everything to the last check, and no request
	last     bool // time runs out: open transactions are no reason not to begin
	unnamed  bool // the operator chooses the new primary
	decide   func(Facts) Assessment
	deadline time.Time // no Lease is waited for any longer; zero: leaseWait decides

	facts       Facts
	candidate   *Member
	warnings    []string           // of the assessment
	lease       escort.MarkedLease // of the cluster
	turns       []turn             // all Leases that are held
	takenOver   bool               // another holder of the cluster's Lease resumes what is paused
	paths       *paths
	lead        time.Duration // what pause and last check take, as long as the same reads took before
	limit       time.Duration // of the hold
	mark        mark
	interrupted *mark          // of an interrupted move whose last commands may still come; nil: none
	unreached   []markedPooler // of that move, whose poolers could not all be resumed
	pausedAt    time.Time      // zero: nothing is paused
	moved       string         // the new leader
	proven      bool           // a write through every pooler reached it before they were resumed
	told        teller
	begun       bool // a switchover that cannot be withdrawn is under way
}

// errTooShort holds a primary until the next invocation.
var errTooShort = &drain.Held{Reason: "the invocation ends too soon; the next one moves the primary"}

// pausedAgainAfter is how long clients are left alone after a pause that moved nothing. A transaction that is too long, or a replica that
// does not catch up, takes minutes to change, and each pause costs every client seconds.
const pausedAgainAfter = 2 * time.Minute

// hold returns the error of a primary that stays for now.
func hold(format string, args ...any) error {
	return &drain.Held{Reason: escort.Printable(fmt.Sprintf(format, args...))}
}

// run moves the primary. It returns drain.Held if nothing was moved. Whatever happens, it resumes what it paused.
func (m *move) run(ctx context.Context) error {
	if err := m.assess(ctx); err != nil {
		return err
	}
	if err := m.lookAround(ctx); err != nil {
		return err
	}
	defer func() { m.paths.close() }()
	release, err := m.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	before := m.heldFronts()
	// What was seen before may be what another move had changed for a while: a pause, and server_login_retry.
	if err := m.lookAround(ctx); err != nil {
		return err
	}
	if err := m.ready(ctx, before); err != nil {
		return err
	}
	m.align(ctx)
	return m.underPause(ctx)
}

// lookAround finds the Services and poolers in front of the primary.
func (m *move) lookAround(ctx context.Context) error {
	paths, err := m.findPaths(ctx, m.cluster, &m.facts, true)
	if err != nil {
		return holdUnread("%v", err)
	}
	if m.paths != nil {
		m.paths.close()
	}
	m.paths = paths
	return nil
}

// assess reads the facts, and chooses the candidate.
func (m *move) assess(ctx context.Context) error {
	leader := m.facts.Leader
	began := time.Now()
	f, err := Observe(ctx, m.clusters, m.facts.Identity)
	m.lead = min(max(keyLead, 2*time.Since(began)), maxKeyLead)
	if err != nil {
		return holdUnread("cannot read the cluster: %v", err)
	}
	if m.paths != nil {
		m.addWork(ctx, m.paths.fronts, &f)
	}
	m.facts = f
	if leader != "" && f.Leader != leader {
		return hold("the leader changed from %s to %q meanwhile", leader, f.Leader)
	}
	if f.LeaderMember() == nil {
		return hold("no pod has the leader's name %q", f.Leader)
	}
	if m.unnamed {
		return nil
	}
	a := m.decide(f)
	m.warnings = a.Warnings
	switch {
	case a.Plain != "":
		return hold("%s", a.Plain)
	case len(a.Holds) > 0:
		return hold("%s", strings.Join(a.Holds, "; "))
	case a.Candidate == nil:
		return hold("no member can become primary")
	}
	m.candidate = a.Candidate
	return nil
}

// align waits until shortly before the leader's next loop, if the request is only noticed then.
func (m *move) align(ctx context.Context) {
	if wait := m.waitForLoop(); wait > 0 {
		_ = escort.Sleep(ctx, wait)
	}
}

// waitForLoop returns how long align waits.
func (m *move) waitForLoop() time.Duration {
	if len(m.heldFronts()) == 0 || m.rehearse {
		return 0
	}
	return max(0, m.way.wait(m.facts, time.Now(), m.lead))
}

func (m *move) heldFronts() (held []*front) {
	for _, p := range m.paths.fronts {
		if p.unheld == "" {
			held = append(held, p)
		}
	}
	return held
}

// underPause does what clients wait for.
func (m *move) underPause(ctx context.Context) error {
	if err := m.makeMark(); err != nil {
		return err
	}
	if err := m.remind(ctx); err != nil {
		return err
	}
	if err := m.setMark(ctx); err != nil {
		m.clear(ctx, m.unresumed())
		return hold("cannot record what is going to be paused: %v", err)
	}
	defer m.told.sending.Wait()
	m.pausedAt = time.Now()
	err := safely(func() error { return m.switchOver(ctx) })
	if m.isTakenOver(ctx) {
		return m.endTakenOver(ctx)
	}
	stillPaused := append(m.resumePoolers(ctx), m.unresumed()...)
	if m.takenOver {
		return m.endTakenOver(ctx)
	}
	m.tellResumed(ctx, stillPaused)
	if m.moved == "" {
		m.clear(ctx, stillPaused)
		m.report("")
		return m.ended(ctx, err, stillPaused)
	}
	m.withdrawLate(ctx)
	m.reconnect(ctx)
	stillPaused = m.restore(ctx, stillPaused)
	if m.takenOver {
		return m.endTakenOver(ctx)
	}
	m.clear(ctx, stillPaused)
	m.report("moved to " + m.moved)
	if err != nil {
		escort.AddReason(m.result, err.Error())
	}
	if len(stillPaused) > 0 {
		escort.AddReason(m.result, "poolers may still be paused: "+namesOf(stillPaused))
	}
	return nil
}

// ended returns the error of a move that moved nothing.
func (m *move) ended(ctx context.Context, err error, stillPaused []markedPooler) error {
	held, is := errors.AsType[*drain.Held](err)
	switch {
	case err == nil:
		return nil
	case !is && ctx.Err() != nil:
		return context.Cause(ctx)
	case !is:
		held = &drain.Held{Reason: escort.Printable(err.Error())}
	}
	if held = (&drain.Held{Reason: held.Reason}); len(m.heldFronts()) > 0 && !m.begun {
		held.After = pausedAgainAfter
	}
	if len(stillPaused) > 0 {
		held.Reason = escort.Printable(held.Reason + "; poolers may still be paused: " + namesOf(stillPaused))
	}
	return held
}

// switchOver pauses, checks, requests, and waits until clients reach the new primary. The caller resumes.
func (m *move) switchOver(ctx context.Context) error {
	end := m.pausedAt.Add(m.limit)
	ctx, cancel := context.WithDeadlineCause(ctx, end, errHoldOver)
	defer cancel()
	if err := m.pause(ctx); err != nil {
		return err
	}
	if err := m.lastCheck(ctx); err != nil {
		return err
	}
	passed := time.Now()
	if err := m.checkPaused(ctx); err != nil {
		return err
	}
	if time.Since(passed) > staleAfter {
		if err := m.lastCheck(ctx); err != nil {
			return err
		}
	}
	if m.rehearse {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := m.lost(); err != nil {
		return err
	}
	// From here on, an end of the drain must not let clients go while Patroni demotes.
	asking, stop := context.WithDeadlineCause(context.WithoutCancel(ctx), end, errHoldOver)
	defer stop()
	defer context.AfterFunc(ctx, func() {
		if errors.Is(context.Cause(ctx), drain.ErrTakenOver) {
			stop()
		}
	})()
	if err := m.request(asking, end.Add(-resumeReserve)); err != nil {
		return err
	}
	m.follow(asking)
	return nil
}

var errHoldOver = errors.New("clients must not wait any longer")

func (m *move) candidateName() string {
	if m.candidate == nil {
		return ""
	}
	return m.candidate.Name
}
