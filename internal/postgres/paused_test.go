package postgres

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/test/parts/bubble"
)

// A pooler stops answering before the switchover is requested. The primary stays, the other pooler's clients go on at once, and the report
// names the one that may still be paused.
func TestRun_PoolerFrozenWhilePaused_HeldAndOthersGoOn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.poolers["b"].frozen, w.poolers["b"].deaf, w.poolers["b"].deafFor = true, true, time.Minute
		_, err, _ := w.run(t, "pg-0")
		requireHeld(t, err, "pooler db/pooler-b stopped answering while it was paused: no answer within 3s")
		requireHeld(t, err, "poolers may still be paused: db/pooler-b")
		require.Empty(t, w.order("request"))
		record, err := readMark(string(w.records["pg-0"]))
		require.NoError(t, err)
		require.Len(t, record.Poolers, 1, "the next run resumes it")
		require.Less(t, w.poolers["a"].longest, 5*time.Second)
		time.Sleep(time.Minute)
		w.poolers["b"].frozen = false
		e, _ := w.escort()
		_, _, err = e.Resume(t.Context())
		require.NoError(t, err)
		w.requireResumed(t)
	})
}

// At the end of the drain's time, the primary does not stay for a pooler that does not answer.
func TestCheckPaused_AtTheEndOfTime_NothingIsAsked(t *testing.T) {
	require.NoError(t, (&move{last: true, paths: &paths{fronts: []*front{{}}}}).checkPaused(t.Context()))
}

// Somebody resumes a database between the pause and the request: its clients would meet the switchover.
func TestRun_PoolerResumedBySomebodyElse_Held(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.poolers["a"].busy = time.Second
		w.when("pause b/app", func() { w.locked(0, func() { clear(w.poolers["b"].paused) }) })
		_, err, _ := w.run(t, "pg-0")
		requireHeld(t, err, "another administrator has resumed database app of pooler db/pooler-b")
		require.Empty(t, w.order("request"))
		w.requireNothingPaused(t)
	})
}

// A request that is held up on its way is given up before it is withdrawn and clients go on. Otherwise it could arrive between the two.
func TestRun_RequestHeldUpOnItsWay_GivenUpBeforeClientsGoOn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.behavior = "held up"
		e, i := w.escort()
		e.Asker, e.ConnectVia = i, config.ViaPodIP
		_, err, _ := w.runAs(t, e, i, "pg-0")
		requireHeld(t, err, "no other member led within 25s, and Patroni has not answered the request")
		requireOrder(t, w.effects, "pause a/app", "post pg-1", "post given up", "withdraw", "resume a/app")
		require.Equal(t, "pg-0", w.leader)
		w.requireNothingPaused(t)
	})
}

// lingering notes how its end is set.
type lingering struct {
	net.Conn
	seconds []int
}

func (l *lingering) SetLinger(seconds int) error {
	l.seconds = append(l.seconds, seconds)
	return nil
}

// What the kernel still has of a request that is given up is discarded. A request that was answered ends like any other.
func TestREST_GivenUp_DiscardsWhatHasNotArrived(t *testing.T) {
	for want, answers := range map[string]bool{"answered": true, "given up": false} {
		t.Run(want, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan struct{})
			defer close(ended)
			rest, _ := patroni(t, func(http.ResponseWriter, *http.Request) {
				if !answers {
					cancel()
					<-ended
				}
			})
			dial, conn := rest.Dial, &lingering{}
			rest.Dial = func(ctx context.Context, address string) (net.Conn, error) {
				var err error
				conn.Conn, err = dial(ctx, address)
				return conn, err
			}
			err := rest.Switchover(ctx, restLeader, "pg-1")
			if answers {
				require.NoError(t, err)
				require.Equal(t, []int{0, -1}, conn.seconds)
				return
			}
			require.ErrorIs(t, err, errAsked)
			require.Equal(t, []int{0}, conn.seconds)
		})
	}
}
