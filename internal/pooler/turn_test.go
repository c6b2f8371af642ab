package pooler

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/test/parts/bubble"
)

// waitingForPeer makes the pod one of two, of which the other is starting.
func waitingForPeer(w *fakeCluster) {
	other := escort.Peer{Ref: drain.Ref{Namespace: "db", Name: "b", UID: "uid-b"}}
	w.selectors.Replicas, w.peers = 2, []escort.Peer{{Ref: w.pod.Ref, Ready: true}, other}
}

// takeTurn takes a turn, and returns how long that took.
func takeTurn(t *testing.T, w *fakeCluster, ctx context.Context) (r *run, waited time.Duration, err error) {
	r = w.escort(minute).begin(w.request(t))
	r.cluster, r.pod = w, *w.pod
	began := time.Now()
	release, err := r.awaitTurn(ctx, r.turnDeadline(ctx))
	if err == nil {
		release()
	}
	return r, time.Since(began), err
}

func TestTurn_LeaseHeldByAnother_Waits(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w, began := newCluster(nil), time.Now()
		w.held = func(string) bool { return time.Since(began) < 10*time.Second }
		r, waited, err := takeTurn(t, w, t.Context())
		require.NoError(t, err)
		require.Equal(t, 10*time.Second, waited)
		require.Empty(t, r.result.Reason)
		require.Equal(t, []string{acquired("uid-owner"), "released"}, w.callList())
	})
}

func TestTurn_LeaseNeverFree_WaitsHalfOfTheTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newCluster(nil)
		w.held = func(string) bool { return true }
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		r, waited, err := takeTurn(t, w, ctx)
		require.NoError(t, err)
		require.Equal(t, 20*time.Second, waited)
		require.Contains(t, r.result.Reason, "another pod of its group")
	})
}

func TestTurn_PeerGetsReady_WaitsWithTheLease(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newCluster(nil)
		waitingForPeer(w)
		time.AfterFunc(6500*time.Millisecond, func() {
			w.mutex.Lock()
			defer w.mutex.Unlock()
			w.peers[1].Ready = true
		})
		r, waited, err := takeTurn(t, w, t.Context())
		require.NoError(t, err)
		require.Equal(t, 7*time.Second, waited)
		require.Empty(t, r.result.Reason)
	})
}

func TestTurn_PeerNeverReady_GivesTheReason(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newCluster(nil)
		waitingForPeer(w)
		r, waited, err := takeTurn(t, w, t.Context())
		require.NoError(t, err)
		require.Equal(t, r.PhaseTimeout, waited)
		require.Equal(t, "no other pod of its group is ready", r.result.Reason)
	})
}

// The rest of the time is for draining the pod.
func TestTurnTimeout_EvictBy_HalfOfTheTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newCluster(nil)
		waitingForPeer(w)
		for _, deadline := range []time.Duration{time.Hour, 20 * time.Second} {
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			request := w.request(t)
			request.EvictBy = time.Now().Add(30 * time.Second)
			r := w.escort(minute).begin(request)
			require.Equal(t, min(15*time.Second, deadline/2), r.turnTimeout(ctx))
		}
	})
}

func TestTurn_DrainEnds_ReleasesTheLease(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newCluster(nil)
		waitingForPeer(w)
		over := errors.New("the invocation is over")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(3*time.Second, func() { cancel(over) })
		_, waited, err := takeTurn(t, w, ctx)
		require.ErrorIs(t, err, over)
		require.Equal(t, 3*time.Second, waited)
		require.Equal(t, []string{acquired("uid-owner"), "released"}, w.callList())
	})
}

func TestTurn_PermissionMissing_ContinuesWithoutTurn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newCluster(nil)
		w.failure = escort.ErrForbidden
		r, waited, err := takeTurn(t, w, t.Context())
		require.NoError(t, err)
		require.Less(t, waited, 10*time.Second)
		require.Contains(t, r.result.Reason, "cannot take turns with its group: permission missing")
	})
}

func TestTurn_LeaseName_IsTheOwnersOrThePods(t *testing.T) {
	was := escort.Owner{Kind: "ReplicaSet", Name: "pgbouncer-1", UID: "uid-was"}
	for name, c := range map[string]struct {
		change func(*run)
		lease  string
	}{
		"owned":                     {func(*run) {}, acquired("uid-owner")},
		"without an owner":          {func(r *run) { r.pod.Owner = escort.Owner{} }, acquired("uid-a")},
		"orphaned by a surge":       {func(r *run) { r.pod.Owner, r.record = escort.Owner{}, &record{Owner: was} }, acquired("uid-was")},
		"owned again after a crash": {func(r *run) { r.record = &record{Owner: was} }, acquired("uid-owner")},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCluster(nil)
			r := w.escort(minute).begin(w.request(t))
			r.cluster, r.pod = w, *w.pod
			c.change(r)
			release, err := r.awaitTurn(t.Context(), r.turnDeadline(t.Context()))
			require.NoError(t, err)
			release()
			require.Equal(t, c.lease, w.callList()[0])
		})
	}
}
