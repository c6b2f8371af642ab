package pooler

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

var own = somePod().Ref

func peer(name string, change ...func(*escort.Peer)) escort.Peer {
	p := escort.Peer{Ref: drain.Ref{Namespace: "db", Name: name, UID: "uid-" + name}, Ready: true}
	if name == own.Name {
		p.Ref = own
	}
	for _, c := range change {
		c(&p)
	}
	return p
}

func starting(p *escort.Peer)    { p.Ready = false }
func terminating(p *escort.Peer) { p.Terminating = true }
func leaving(p *escort.Peer)     { p.NodeLeaving = true }

func TestAPoolerWaitsForAPeerOnlyIfOneIsToCome(t *testing.T) {
	self := peer(own.Name)
	for name, c := range map[string]struct {
		peers    []escort.Peer
		replicas int
		waits    bool
	}{
		"nothing is known of its owner":                {nil, 0, false},
		"it is the only one there is to be":            {[]escort.Peer{self}, 1, false},
		"another is ready":                             {[]escort.Peer{self, peer("b")}, 2, false},
		"another is ready, a third is not":             {[]escort.Peer{self, peer("b"), peer("c", starting)}, 3, false},
		"the other is starting":                        {[]escort.Peer{self, peer("b", starting)}, 2, true},
		"the other is yet to be made":                  {[]escort.Peer{self}, 2, true},
		"the other terminates":                         {[]escort.Peer{self, peer("b", terminating)}, 2, true},
		"the other leaves as well, and is not gone":    {[]escort.Peer{self, peer("b", leaving)}, 2, false},
		"the other leaves before it was ever ready":    {[]escort.Peer{self, peer("b", leaving, starting)}, 2, false},
		"one leaves and its replacement is starting":   {[]escort.Peer{self, peer("b", leaving), peer("c", starting)}, 2, true},
		"one terminates and its replacement is ready":  {[]escort.Peer{self, peer("b", terminating), peer("c")}, 2, false},
		"it has no label any more, and another serves": {[]escort.Peer{peer("b")}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.waits, worthWaiting(c.peers, own, c.replicas))
		})
	}
}

// takeTurn waits for the turn in a bubble, and says how long that took.
func takeTurn(t *testing.T, w *world, ctx context.Context) (e *run, waited time.Duration, err error) {
	e = w.escort(minute).begin(w.request(t))
	e.k, e.pod = w, *w.pod
	began := time.Now()
	leave, err := e.turn(ctx)
	if err == nil {
		leave()
	}
	return e, time.Since(began), err
}

func TestOnePoolerOfAGroupLeavesAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, began := lonely(nil), time.Now()
		w.holder = func(string) bool { return time.Since(began) < 10*time.Second }
		e, waited, err := takeTurn(t, w, t.Context())
		require.NoError(t, err)
		require.Equal(t, 10*time.Second, waited)
		require.Empty(t, e.result.Reason)
		require.Equal(t, []string{"holds quiesce-pooler-uid-owner", "lets go"}, w.happened())
	})
}

func TestALeaseThatIsNeverFreeIsWaitedForHalfTheTimeThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lonely(nil)
		w.holder = func(string) bool { return true }
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		e, waited, err := takeTurn(t, w, ctx)
		require.NoError(t, err)
		require.Equal(t, 20*time.Second, waited)
		require.Contains(t, e.result.Reason, "another pooler of its group")
	})
}

func TestAPeerThatGetsReadyIsWaitedForWithTheLeaseHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lonely(nil)
		w.around.Replicas, w.peers = 2, []escort.Peer{peer(own.Name), peer("b", starting)}
		time.AfterFunc(6500*time.Millisecond, func() {
			w.mutex.Lock()
			defer w.mutex.Unlock()
			w.peers[1].Ready = true
		})
		e, waited, err := takeTurn(t, w, t.Context())
		require.NoError(t, err)
		require.Equal(t, 7*time.Second, waited)
		require.Empty(t, e.result.Reason)
	})
}

func TestAPeerThatNeverGetsReadyIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lonely(nil)
		w.around.Replicas, w.peers = 2, []escort.Peer{peer(own.Name), peer("b", starting)}
		e, waited, err := takeTurn(t, w, t.Context())
		require.NoError(t, err)
		require.Equal(t, e.Patience, waited)
		require.Equal(t, "no other pooler of its group is ready", e.result.Reason)
	})
}

// The rest of its time is what it takes to leave well.
func TestAPoolerThatMustLeaveWaitsForItsTurnNoLongerThanHalfOfItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lonely(nil)
		w.around.Replicas, w.peers = 2, []escort.Peer{peer(own.Name), peer("b", starting)}
		for _, deadline := range []time.Duration{time.Hour, 20 * time.Second} {
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			hurried := w.request(t)
			hurried.EvictBy = time.Now().Add(30 * time.Second)
			e := w.escort(minute).begin(hurried)
			require.Equal(t, min(15*time.Second, deadline/2), e.turnPatience(ctx))
		}
	})
}

func TestADrainThatIsOverWaitsForNoTurnAndLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lonely(nil)
		w.around.Replicas, w.peers = 2, []escort.Peer{peer(own.Name), peer("b", starting)}
		over := errors.New("the slice is over")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(3*time.Second, func() { cancel(over) })
		_, waited, err := takeTurn(t, w, ctx)
		require.ErrorIs(t, err, over)
		require.Equal(t, 3*time.Second, waited)
		require.Equal(t, []string{"holds quiesce-pooler-uid-owner", "lets go"}, w.happened())
	})
}

func TestAnAPIServerThatCannotTellWhoseTurnItIsKeepsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lonely(nil)
		w.broken = errors.New("forbidden")
		e, waited, err := takeTurn(t, w, t.Context())
		require.NoError(t, err)
		require.Less(t, waited, 2*turnFaults*turnInterval)
		require.Contains(t, e.result.Reason, "its turn is not known: forbidden")
	})
}

func TestAGroupIsTheOwnersOrThePodAlone(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*run)
		lease  string
	}{
		"owned":                     {func(*run) {}, "holds quiesce-pooler-uid-owner"},
		"nobody's":                  {func(e *run) { e.pod.Owner = escort.Owner{} }, "holds quiesce-pooler-uid-a"},
		"let go of during a surge":  {func(e *run) { e.pod.Owner, e.note = escort.Owner{}, &Note{Owner: escort.Owner{UID: "uid-was"}} }, "holds quiesce-pooler-uid-was"},
		"owned again after a crash": {func(e *run) { e.note = &Note{Owner: escort.Owner{UID: "uid-was"}} }, "holds quiesce-pooler-uid-owner"},
	} {
		t.Run(name, func(t *testing.T) {
			w := lonely(nil)
			e := w.escort(minute).begin(w.request(t))
			e.k, e.pod = w, *w.pod
			c.change(e)
			leave, err := e.turn(t.Context())
			require.NoError(t, err)
			leave()
			require.Equal(t, c.lease, w.happened()[0])
		})
	}
}
