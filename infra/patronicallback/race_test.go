package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/pgbouncer"
	parts "quiesce/test/parts/pgbouncer"
	"quiesce/test/parts/ports"
)

// Several clusters have one pooler in front of them. Each has a database of its own there. Their primaries stop at the same moment.

// other is a second cluster's database.
const other = "other"

// setMark is how the command that writes a mark begins.
var setMark = []byte("SET " + pgbouncer.ServerLoginRetry)

// startRelay passes connections on to the present pooler until the test ends, and returns its address. It calls before with what a client
// sends, before it passes that on. A client sends one command at a time.
func startRelay(t *testing.T, present func() *parts.Pooler, before func(sent []byte)) string {
	t.Helper()
	return ports.Serve(t, func(client net.Conn) {
		server, err := net.Dial("tcp", present().Addr)
		if err != nil {
			return
		}
		var directions sync.WaitGroup
		directions.Go(func() { relay(server, client, before) })
		directions.Go(func() { relay(client, server, func([]byte) {}) })
		directions.Wait()
	})
}

// relay passes on one direction, and ends both.
func relay(to, from net.Conn, before func(sent []byte)) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		before(buffer[:n])
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// runOf runs before_stop of the cluster with this database, by way of this address.
func (f *fixture) runOf(database, address string) {
	f.Helper()
	if status := f.run(beforeStop, "-poolers "+address+" -databases "+database); status != 0 {
		f.Errorf("before_stop of %s ended with status %d", database, status)
	}
}

func (f *fixture) first() *parts.Pooler { return f.poolers[0] }

// pausedDatabases returns the databases of the first pooler that are paused.
func (f *fixture) pausedDatabases() (paused []string) {
	f.Helper()
	console, err := pgbouncer.Open(f.Context(), targetOf(f.poolers[0]))
	require.NoError(f, err)
	defer console.Close()
	all, err := console.Databases(f.Context())
	require.NoError(f, err)
	for _, d := range all {
		if d.Paused {
			paused = append(paused, d.Name)
		}
	}
	slices.Sort(paused)
	return paused
}

// setting returns server_login_retry of the first pooler.
func (f *fixture) setting() string {
	f.Helper()
	console, err := pgbouncer.Open(f.Context(), targetOf(f.poolers[0]))
	require.NoError(f, err)
	defer console.Close()
	value, err := console.Setting(f.Context(), pgbouncer.ServerLoginRetry)
	require.NoError(f, err)
	return value
}

// requireNothingLeft waits until all watchers have ended, and requires that no cluster's database is paused.
func (f *fixture) requireNothingLeft() {
	f.Helper()
	f.awaitNoWatcher()
	require.Empty(f, f.pausedDatabases())
	require.Equal(f, retryBefore, f.setting())
}

// Both have seen the pooler without a mark before either has written one.
func TestBeforeStop_TwoClustersMarkAtOnce_OnePauses(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{Aliases: []string{other}})
	f := newFixture(t, p)
	var arrived atomic.Int32
	both := make(chan struct{})
	var clusters sync.WaitGroup
	for _, database := range []string{parts.App.Name, other} {
		var once sync.Once
		address := startRelay(t, f.first, func(sent []byte) {
			if bytes.Contains(sent, setMark) {
				once.Do(func() {
					if arrived.Add(1) == 2 {
						close(both)
					}
					awaitOrEnd(t, both)
				})
			}
		})
		clusters.Go(func() { f.runOf(database, address) })
	}
	clusters.Wait()
	require.Eventually(t, func() bool { return len(f.pausedDatabases()) == 1 }, waitTimeout, waitInterval, "one cluster pauses, and one gives way")
	require.Equal(t, 1, strings.Count(f.read(f.output), `msg="paused the pooler"`))
	f.say("running", "primary")
	f.requireNothingLeft()
}

// awaitOrEnd waits until the channel is closed, or the test ends.
func awaitOrEnd(t *testing.T, closed <-chan struct{}) {
	select {
	case <-closed:
	case <-t.Context().Done():
	}
}

// One has seen the pooler without a mark, and writes its own when the other's pause is in force. The first pause is kept.
func TestBeforeStop_MarkOfAnotherClusterComesLate_FirstPauseKept(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string]bool{"its watcher lives": false, "its watcher dies": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startLateMark(t)
			require.Eventually(t, func() bool { return slices.Equal(f.pausedDatabases(), []string{parts.App.Name}) }, waitTimeout, waitInterval)
			m, marked := readMark(f.setting())
			require.True(t, marked && m.isPause(), "a new leader must know the pause")
			if kill {
				f.killWatchers()
				f.promoted()
			} else {
				f.say("running", "primary")
			}
			f.requireNothingLeft()
		})
	}
}

// startLateMark pauses the first cluster while the second is about to write its mark, and returns when the second has given way.
func startLateMark(t *testing.T) *fixture {
	t.Helper()
	p := parts.Start(t, parts.Newer, parts.Options{Aliases: []string{other}})
	f := newFixture(t, p)
	marking, paused := make(chan struct{}), make(chan struct{})
	var once sync.Once
	address := startRelay(t, f.first, func(sent []byte) {
		if bytes.Contains(sent, setMark) {
			once.Do(func() { close(marking); awaitOrEnd(t, paused) })
		}
	})
	done := make(chan struct{})
	go func() { defer close(done); f.runOf(other, address) }()
	<-marking
	f.runOf(parts.App.Name, p.Addr)
	require.Equal(t, []string{parts.App.Name}, f.pausedDatabases())
	close(paused)
	<-done
	return f
}

// Whatever the order of the commands of three clusters is, at most one of them pauses, and nothing is left.
func TestBeforeStop_ThreeClustersAtOnce_NothingLeft(t *testing.T) {
	t.Parallel()
	const rounds, third = 3, "third"
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			p := parts.Start(t, []string{parts.Older, parts.Newer}[i%2], parts.Options{Aliases: []string{other, third}})
			f := newFixture(t, p)
			address := startRelay(t, f.first, func([]byte) { time.Sleep(rand.N(30 * time.Millisecond)) }) // the order is the subject
			for range rounds {
				f.say("stopping", "primary")
				var clusters sync.WaitGroup
				for _, database := range []string{parts.App.Name, other, third} {
					clusters.Go(func() { f.runOf(database, address) })
				}
				clusters.Wait()
				require.Eventually(t, func() bool { return len(f.pausedDatabases()) <= 1 }, waitTimeout, waitInterval)
				f.say("running", "primary")
				f.requireNothingLeft()
			}
		})
	}
}

// A callback that has marked the pooler and died does not keep the databases of another cluster for ever.
func TestStateOf_MarkAndTime_Decide(t *testing.T) {
	now, paused := time.Now(), func(m mark) view { return view{paused: true, retry: m.value()} }
	mine, theirs := mark{15, 42}, mark{15, 43}
	p := pooler{mark: mine}
	require.Equal(t, ended, p.stateOf(view{retry: mine.value()}, now))
	require.Equal(t, ours, p.stateOf(paused(mine), now))
	require.Equal(t, ours, p.stateOf(view{paused: true, retry: "15"}, now), "after a RELOAD")
	require.Equal(t, ours, p.stateOf(paused(mark{15, yielded}), now))
	require.Equal(t, foreign, p.stateOf(paused(theirs), now))
	require.Equal(t, foreign, p.stateOf(paused(theirs), now.Add(foreignTime-1)))
	require.Equal(t, ours, p.stateOf(paused(theirs), now.Add(foreignTime)), "its callback has died")
	require.Equal(t, foreign, p.stateOf(paused(mark{15, 44}), now.Add(foreignTime)), "a later one has its own time")
	require.Equal(t, ours, p.stateOf(paused(mine), now))
	require.Equal(t, foreign, p.stateOf(paused(theirs), now.Add(time.Hour)), "the time begins again")
}
