package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

// A PAUSE that went into a tunnel and was not read comes when the network lets it. The move is over then, so sweeps resume the pooler again.
func TestRun_PauseMayStillComeThroughATunnel_NextSweepsResume(t *testing.T) {
	for name, unread := range map[string]bool{"unread": true, "read": false} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				w.poolers["a"].unread = unread
				e, i := w.escort()
				_, err, _ := w.runAs(t, e, i, "pg-0")
				require.NoError(t, err)
				w.pauseLate("a")
				_, _, err = e.Resume(t.Context())
				require.NoError(t, err)
				require.Equal(t, unread, len(w.poolers["a"].paused) == 0)
				time.Sleep(lateTime)
				_, _, err = e.Resume(t.Context())
				require.NoError(t, err)
				require.Empty(t, w.leases[testCluster].mark, "it cannot come any more")
			})
		})
	}
}

// A rollout starts poolers of another ReplicaSet between the two looks. Another drain may stop one of them under the pause: their Lease is not
// taken.
func TestRun_PoolerAppearsAtTheSecondLook_HeldUntilTheNextRun(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		e, i := w.escort()
		e.Consoles = failingConsoles{i, map[string]int{}, func(pooler string, opened int) error {
			if pooler == "pooler-b" && opened == 0 {
				defer i.enter()()
				i.poolers["new"] = newWorldPooler()
			}
			return nil
		}}
		_, err, _ := w.runAs(t, e, i, "pg-0")
		requireHeld(t, err, "pooler db/pooler-new has appeared a moment ago")
		require.Empty(t, w.effects)
		_, err, _ = w.runAs(t, e, i, "pg-0")
		require.NoError(t, err)
		require.Contains(t, w.effects, "pause new/app")
		w.requireNothingPaused(t)
	})
}

// The wait for Patroni's loop comes before the pause. The invocation must have time for both.
func TestRun_InvocationEndsDuringTheLoop_HeldUntilTheNext(t *testing.T) {
	for rest, want := range map[time.Duration]bool{time.Second: true, testLoop: false} {
		bubble.Test(t, func(t *testing.T) {
			w := newWorld()
			e, i := w.escort()
			ctx, cancel := context.WithTimeout(t.Context(), e.PauseTimeout+invocationReserve+rest)
			defer cancel()
			_, err, _ := w.runIn(ctx, t, e, i, "pg-0")
			if want {
				require.ErrorIs(t, err, errTooShort)
				require.Empty(t, w.effects)
				return
			}
			require.NoError(t, err)
		})
	}
}
