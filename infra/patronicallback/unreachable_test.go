package main

import (
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	parts "quiesce/test/parts/pgbouncer"
)

// outage is how long a pooler does not answer. It is longer than the 20 s for which a setting is restored, and a watcher once gave up then.
const outage = 25 * time.Second

// freeze stops the first pooler's process, and returns a function that lets it go on.
func (f *fixture) freeze() (thaw func()) {
	f.Helper()
	f.poolers[0].Signal(f.T, syscall.SIGSTOP)
	thaw = func() { f.poolers[0].Signal(f.T, syscall.SIGCONT) }
	f.Cleanup(thaw)
	return thaw
}

// awaitOutage waits until an outage that began then is over.
func (f *fixture) awaitOutage(began time.Time) {
	f.Helper()
	require.Eventually(f, func() bool { return time.Since(began) > outage }, waitTimeout, waitInterval)
}

// The pooler does not answer when the pause must end. It is resumed when it answers again.
func TestBeforeStop_PoolerDoesNotAnswerAtTheEnd_ResumedLater(t *testing.T) {
	t.Parallel()
	f := newFixture(t, parts.Start(t, parts.Newer, parts.Options{}))
	require.Zero(t, f.run(beforeStop, "-resume-after "+short.String()))
	f.requirePaused()
	thaw, began := f.freeze(), time.Now()
	f.say("running", "primary")
	f.awaitOutage(began.Add(short)) // from the end of the pause on
	require.Len(t, f.watchers(), 1)
	thaw()
	f.requireAsBefore()
	require.Contains(t, f.read(f.output), `msg="resumed the pooler"`)
}

// The new leader's watcher is the only one left, and the pooler does not answer it.
func TestOnRoleChange_PoolerDoesNotAnswer_ResumedLater(t *testing.T) {
	t.Parallel()
	f := newFixture(t, parts.Start(t, parts.Newer, parts.Options{}))
	require.Zero(t, f.run(beforeStop, ""))
	f.requirePaused()
	f.killWatchers()
	thaw, began := f.freeze(), time.Now()
	f.promoted()
	f.awaitOutage(began)
	thaw()
	f.requireAsBefore()
	require.Contains(t, f.read(f.output), `msg="resumed the pooler"`)
}

// The old leader's watcher has restored the setting first. Connections may lead to the old primary all the same.
func TestFinish_SettingIsRestoredAlready_StillReconnects(t *testing.T) {
	t.Parallel()
	f := newFixture(t, parts.Start(t, parts.Newer, parts.Options{}))
	p := newPooler(f.first().Addr, targetOf(f.first()), options{poolers: f.first().Addr, databases: parts.App.Name})
	t.Cleanup(p.close)
	require.NoError(t, p.finish(t.Context(), false))
	require.NotContains(t, f.first().Log(t), "RECONNECT '")
	f.first().RequireLogs(t, "RECONNECT '", func() { require.NoError(t, p.finish(t.Context(), true)) })
	f.tell(f.first(), "PAUSE "+parts.App.Name)
	require.NoError(t, p.finish(t.Context(), true))
	require.Equal(t, 1, strings.Count(f.first().Log(t), "RECONNECT '"), "a pooler that another has paused is left alone")
}

// A watcher that gives way to another cluster must not leave its own pause either.
func TestGiveWay_PoolerDoesNotAnswer_UndoneLater(t *testing.T) {
	t.Parallel()
	f := newFixture(t, parts.Start(t, parts.Newer, parts.Options{}))
	o := options{poolers: f.first().Addr, databases: parts.App.Name}
	p := newPooler(f.first().Addr, targetOf(f.first()), o)
	t.Cleanup(p.close)
	v, err := p.lookBefore(t.Context(), short)
	require.NoError(t, err)
	marked, err := p.pause(t.Context(), v, 11)
	require.NoError(t, err)
	require.True(t, marked)
	theirs := mark{15, 12}.value()
	f.tell(f.first(), "SET server_login_retry = '"+theirs+"'")
	stays, err := p.settle(t.Context())
	require.NoError(t, err)
	require.False(t, stays)

	thaw := f.freeze()
	output, err := os.Create(f.output)
	require.NoError(t, err)
	t.Cleanup(func() { _ = output.Close() })
	done := make(chan struct{})
	go func() {
		defer close(done)
		w := newWatcher(o, slog.New(slog.NewTextHandler(output, nil)))
		_ = w.keepTrying(t.Context(), p, func() error { return p.giveWay(t.Context()) })
	}()
	require.Eventually(t, func() bool { return strings.Contains(f.read(f.output), notAnswering) }, waitTimeout, waitInterval)
	thaw()
	<-done
	paused, retry := f.shown(f.first())
	require.False(t, paused)
	require.Equal(t, theirs, retry, "the mark of the other cluster's pause")
}

func TestGone_NamesNoLongerLeadToThePooler_Known(t *testing.T) {
	for poolers, want := range map[string]bool{"127.0.0.1:1": false, "127.0.0.1:2": true, "127.0.0.1:2,no-such-host.invalid": false} {
		w := newWatcher(options{poolers: poolers}, slog.New(slog.DiscardHandler))
		require.Equal(t, want, w.gone(t.Context(), &pooler{address: "127.0.0.1:1"}), poolers)
	}
}

// A member that has lost its lead leaves the pooler to the next leader: watchers of former leaders must not pile up.
func TestOnRoleChange_PoolerDoesNotAnswerAFormerLeader_Ends(t *testing.T) {
	t.Parallel()
	f := newFixture(t, parts.Start(t, parts.Newer, parts.Options{}))
	require.Zero(t, f.run(beforeStop, ""))
	f.killWatchers()
	thaw := f.freeze()
	f.promoted()
	f.say("running", "replica")
	f.awaitNoWatcher()
	require.Contains(t, f.read(f.output), "no longer the primary")
	thaw()
	f.requirePaused()
	f.promoted()
	f.requireAsBefore()
}

// Its pgbouncer ends, and a new one has its address. A pause does not survive that.
func TestBeforeStop_PoolerRestarts_WatcherEnds(t *testing.T) {
	t.Parallel()
	f := both(t)
	var restarted atomic.Bool
	address := startRelay(t, func() *parts.Pooler {
		if restarted.Load() {
			return f.poolers[1]
		}
		return f.poolers[0]
	}, func([]byte) {})
	require.Zero(t, f.run(beforeStop, "-resume-after "+short.String()+" -poolers "+address))
	paused, _ := f.shown(f.poolers[0])
	require.True(t, paused)
	f.poolers[0].Signal(t, syscall.SIGKILL)
	require.Eventually(t, func() bool { return strings.Contains(f.read(f.output), notAnswering) }, waitTimeout, waitInterval)
	require.Len(t, f.watchers(), 1)
	restarted.Store(true)
	f.awaitNoWatcher()
	require.NotContains(t, f.read(f.output), `msg="resumed the pooler"`)
	paused, retry := f.shown(f.poolers[1])
	require.False(t, paused)
	require.Equal(t, retryBefore, retry)
}
