package escort

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

var own = drain.Ref{Namespace: "db", Name: "a", UID: "uid-a"}

func peer(name string, change ...func(*Peer)) Peer {
	p := Peer{Ref: drain.Ref{Namespace: "db", Name: name, UID: "uid-" + name}, Ready: true}
	for _, c := range change {
		c(&p)
	}
	return p
}

func starting(p *Peer)    { p.Ready = false }
func terminating(p *Peer) { p.Terminating = true }
func nodeLeaving(p *Peer) { p.NodeLeaving = true }

func TestWorthWaiting_OnlyIfAPeerIsToCome(t *testing.T) {
	self := peer("a")
	for name, c := range map[string]struct {
		peers    []Peer
		replicas int
		waits    bool
	}{
		"nothing is known of its owner":                   {nil, 0, false},
		"it is the only one that the owner wants":         {[]Peer{self}, 1, false},
		"another is ready":                                {[]Peer{self, peer("b")}, 2, false},
		"another is ready, a third is not":                {[]Peer{self, peer("b"), peer("c", starting)}, 3, false},
		"the other is starting":                           {[]Peer{self, peer("b", starting)}, 2, true},
		"the other is yet to be made":                     {[]Peer{self}, 2, true},
		"the other terminates":                            {[]Peer{self, peer("b", terminating)}, 2, true},
		"the other's node is drained too":                 {[]Peer{self, peer("b", nodeLeaving)}, 2, false},
		"the other's node is drained before it was ready": {[]Peer{self, peer("b", nodeLeaving, starting)}, 2, false},
		"one is drained and its replacement is starting":  {[]Peer{self, peer("b", nodeLeaving), peer("c", starting)}, 2, true},
		"one terminates and its replacement is ready":     {[]Peer{self, peer("b", terminating), peer("c")}, 2, false},
		"it has been orphaned, and another serves":        {[]Peer{peer("b")}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.waits, worthWaiting(c.peers, own, c.replicas))
		})
	}
}

// group is a group in memory.
type group struct {
	mutex    sync.Mutex
	peers    []Peer
	held     bool // another holds the Lease
	failure  error
	released int
	name     string // of the Lease
}

func (g *group) Peers(context.Context, Pod) ([]Peer, error) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	return g.peers, g.failure
}

func (g *group) setPeers(peers ...Peer) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.peers = peers
}

func (g *group) setFailure(err error) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.failure = err
}

func (g *group) AcquireGroupLease(_ context.Context, name string) (func() error, bool, error) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.name = name
	return func() error { g.released++; return errors.New("it is gone") }, !g.held && g.failure == nil, g.failure
}

func (g *group) turn(timeout time.Duration) Turn {
	return Turn{Cluster: g, Lease: "quiesce-test", Deadline: time.Now().Add(timeout), Log: slog.New(slog.DiscardHandler)}
}

func TestTurn_LeaseFree_AcquiresAndReleases(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g, began := &group{}, time.Now()
		release, reason, err := g.turn(time.Minute).Acquire(t.Context())
		require.NoError(t, err)
		require.Empty(t, reason)
		require.Equal(t, "quiesce-test", g.name)
		require.Zero(t, time.Since(began))
		release()
		require.Equal(t, 1, g.released)
	})
}

func TestTurn_LeaseHeld_StopsAtTheDeadlineWithAReason(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g, began := &group{held: true}, time.Now()
		release, reason, err := g.turn(time.Minute).Acquire(t.Context())
		require.NoError(t, err)
		require.Equal(t, "another pod of its group was being stopped until the timeout", reason)
		require.Equal(t, time.Minute, time.Since(began))
		release()
		require.Zero(t, g.released)
	})
}

func TestTurn_PermissionMissing_ContinuesWithAReason(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g, began := &group{failure: fmt.Errorf("acquire: %w", ErrForbidden)}, time.Now()
		_, reason, err := g.turn(time.Hour).Acquire(t.Context())
		require.NoError(t, err)
		require.Equal(t, "cannot take turns with its group: acquire: permission missing", reason)
		require.Equal(t, (turnErrors-1)*turnInterval, time.Since(began))
	})
}

func TestTurn_ClusterFailsForAWhile_WaitsForTheLease(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := &group{failure: errors.New("the API server is away")}
		time.AfterFunc(10*time.Second, func() { g.setFailure(nil) })
		release, reason, err := g.turn(time.Minute).Acquire(t.Context())
		require.NoError(t, err)
		require.Empty(t, reason)
		release()
		require.Equal(t, 1, g.released)
	})
}

func TestTurn_ClusterFails_ContinuesAtTheDeadlineWithAReason(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g, began := &group{failure: errors.New("the API server is away")}, time.Now()
		_, reason, err := g.turn(time.Minute).Acquire(t.Context())
		require.NoError(t, err)
		require.Equal(t, "cannot take turns with its group: the API server is away", reason)
		require.Equal(t, time.Minute, time.Since(began))
	})
}

func TestTurn_PeerStarting_WaitsUntilReady(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g, began := &group{peers: []Peer{peer("a"), peer("b", starting)}}, time.Now()
		time.AfterFunc(1500*time.Millisecond, func() { g.setPeers(peer("a"), peer("b")) })
		reason, err := g.turn(time.Minute).AwaitPeer(t.Context(), Pod{Pod: drain.Pod{Ref: own}}, 2)
		require.NoError(t, err)
		require.Empty(t, reason)
		require.Equal(t, 2*time.Second, time.Since(began))
	})
}

func TestTurn_ContextEnds_ReturnsItsCause(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		over := errors.New("the invocation is over")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, over)
		defer cancel()
		_, _, err := (&group{held: true}).turn(time.Minute).Acquire(ctx)
		require.ErrorIs(t, err, over)
	})
}
