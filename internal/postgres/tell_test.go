package postgres

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/test/parts/bubble"
)

func TestRun_Move_TellsOwnersThatClientsWaitAndGoOn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		_, err, _ := w.run(t, "pg-0")
		require.NoError(t, err)
		require.Equal(t, []string{
			"ClientsPaused pg-0", "ClientsPaused pooler-a", "ClientsPaused pooler-b", "ClientsResumed pg-0", "ClientsResumed pooler-a", "ClientsResumed pooler-b",
		}, w.told())
		for key, message := range w.events {
			if strings.HasPrefix(key, "ClientsPaused") {
				require.Equal(t, "Paused by quiesce: clients of database db/pg wait at 2 poolers, while its primary moves from pg-0 to pg-1. "+
					"They wait 30s at most. Node node-pg-0 is being drained.", message)
			} else {
				require.Regexp(t, `^Resumed by quiesce after \d+(\.\d)?s: clients of database db/pg go on\. The primary is pg-1 now\.$`, message)
			}
		}
	})
}

// What was not paused is told to nobody. A move that ends without a new primary is told too.
func TestRun_MoveThatFails_TellsWhatHappened(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.behavior = "refused"
		_, err, _ := w.run(t, "pg-0")
		require.Error(t, err)
		require.Len(t, w.events, 6)
		for key, message := range w.events {
			require.Equal(t, strings.HasPrefix(key, "ClientsResumed"), strings.Contains(message, "The primary has not moved."))
		}
		w = newWorld()
		w.poolers["a"].longTx = true
		_, err, _ = w.run(t, "pg-0")
		require.Error(t, err)
		require.Empty(t, w.events, "not all were paused")
		w = newWorld()
		e, _ := w.escort()
		_, err = e.Switchover(t.Context(), drain.Switchover{Namespace: "db", Cluster: "pg", Rehearse: true})
		require.NoError(t, err)
		require.Len(t, w.events, 6)
		for key, message := range w.events {
			require.Equal(t, strings.HasPrefix(key, "ClientsPaused"), strings.Contains(message, "This is a rehearsal"))
		}
	})
}

// An API server that hangs, or denies events, costs no client anything, and the log one line.
func TestRun_EventsFail_NoClientWaitsForThem(t *testing.T) {
	for name, deny := range map[string]func(context.Context) error{
		"denied":    func(context.Context) error { return escort.ErrForbidden },
		"no answer": func(ctx context.Context) error { <-ctx.Done(); return errors.New("late") },
	} {
		bubble.Test(t, func(t *testing.T) {
			w, log := newWorld(), &bytes.Buffer{}
			_, err, _ := w.run(t, "pg-0")
			require.NoError(t, err)
			usual := w.longest()
			w = newWorld()
			w.deny = deny
			e, i := w.escort()
			e.Log = slog.New(slog.NewTextHandler(log, nil))
			_, err, _ = w.runAs(t, e, i, "pg-0")
			require.NoError(t, err)
			require.Equal(t, usual, w.longest(), name)
			require.Equal(t, 1, strings.Count(log.String(), "failed to create Kubernetes event about a pod"), name)
			require.LessOrEqual(t, w.asked, 2*tellAtOnce, name)
		})
	}
}

// The function dies while clients wait. Whoever resumes them tells it, and it is the event that the move would have created.
func TestResume_AfterADeadMove_TellsThatClientsGoOn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.kill = 4 // mark, record, two pauses
		_, _, alive := w.run(t, "pg-0")
		require.False(t, alive)
		time.Sleep(time.Minute)
		e, _ := w.escort()
		resumed, _, err := e.Resume(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"db/pg"}, resumed)
		require.Contains(t, w.told(), "ClientsResumed pooler-a")
		require.Contains(t, w.told(), "ClientsResumed pooler-b")
		_, err, _ = w.run(t, "pg-0") // the record of the drain names the same poolers
		require.NoError(t, err)
	})
}
