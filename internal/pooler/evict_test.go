package pooler

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	parts "quiesce/test/parts/pgbouncer"
)

// minute is what escorts usually have. None of the tests takes it.
const minute = time.Minute

// pair are two poolers of a generation; the first is to be escorted.
func pair(t *testing.T, o parts.Options, test func(t *testing.T, leaving, staying *parts.Pooler)) {
	for _, version := range []string{"1.18", "1.24"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			test(t, parts.Start(t, version, o), parts.Start(t, version, o))
		})
	}
}

func TestABusyPoolerLeavesAndNothingIsCut(t *testing.T) {
	t.Parallel()
	pair(t, parts.Options{}, func(t *testing.T, leaving, staying *parts.Pooler) {
		w, busy := lonely(leaving), work(t, leaving, staying)
		escorted, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, leaving.Ended())
		busy.requireNothingCut(t)
		require.Equal(t, "evict", escorted.Strategy)
		require.NotZero(t, escorted.Version)
		require.NotZero(t, escorted.Clients)
		require.NotZero(t, escorted.HeldBackSeconds)
		require.Empty(t, escorted.Reason)
		require.Empty(t, escorted.AbortedDetail)
		t.Logf("%+v", escorted)
		t.Log(w.happened())
	})
}

func TestAStragglerCommitsAndTheOthersHardlyWait(t *testing.T) {
	t.Parallel()
	pair(t, parts.Options{}, func(t *testing.T, leaving, staying *parts.Pooler) {
		w, busy, straggler := lonely(leaving), work(t, leaving, staying), leaving.Connect(t)
		parts.Exec(t, straggler, "BEGIN")
		committed := make(chan error, 1)
		go func() {
			_, err := straggler.Exec(context.Background(), "SELECT pg_sleep(5); COMMIT").ReadAll()
			committed <- err
		}()
		_, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		require.NoError(t, <-committed)
		busy.requireNothingCut(t)
		machine := busy.stallOf(1) // stalls them all, when it is busy
		require.Less(t, busy.stallOf(0), 1700*time.Millisecond+machine)
	})
}

func TestAPausedPoolerWhoseEvictionFailsIsResumedAtOnce(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]error{
		"blocked": &drain.Blocked{PDBs: []string{"db/pgbouncer"}}, "throttled": &drain.Throttled{}, "broken": errors.New("broken"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := parts.Start(t, parts.Older, parts.Options{})
			w, waiting := lonely(p), make(chan error, 1)
			_, err := w.escort(minute).Run(t.Context(), w.evictedBy(t, func(_ context.Context, o drain.EvictOptions) error {
				if o.DryRun {
					return nil
				}
				requirePaused(t, open(t, p))
				go func() { waiting <- workOnce(p) }()
				return fault
			}))
			require.Equal(t, fault, err)
			require.NoError(t, <-waiting, "who waits for longer than a second is turned away")
			w.requireAsBefore(t)
		})
	}
}

func TestWhatABudgetForbidsIsNotBegun(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w := lonely(p)
		blocked := &drain.Blocked{PDBs: []string{"db/pgbouncer"}}
		w.refuse = blocked
		escorted, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.Equal(t, error(blocked), err)
		require.NotContains(t, p.Log(t), "PAUSE")
		require.NotContains(t, p.Log(t), "SHUTDOWN")
		require.Zero(t, escorted.HeldBackSeconds)
		w.requireAsBefore(t)
	})
}

func TestAnEvictionThatWasAcceptedThoughNotAnsweredIsNotUndone(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, "1.18", parts.Options{})
	w, busy := lonely(p), work(t, p, parts.Start(t, "1.18", parts.Options{}))
	w.lost = true
	_, err := w.escort(minute).Run(t.Context(), w.request(t))
	require.NoError(t, err)
	within(t, p.Ended())
	busy.requireNothingCut(t)
}

func TestADrainThatIsAbortedWhileThePauseWaitsLeavesNothingPaused(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w, app := lonely(p), p.Connect(t)
	parts.Exec(t, app, "BEGIN")
	aborted := errors.New("the instance came back")
	cancel, returned := aside(t, func(ctx context.Context) (drain.EscortResult, error) {
		return w.escort(minute).Run(ctx, w.request(t))
	})
	require.Eventually(t, func() bool { return strings.Contains(p.Log(t), "PAUSE command issued") }, patience, glance)
	cancel(aborted)
	require.NoError(t, workOnce(p), "who waits for longer than a second is turned away")
	require.ErrorIs(t, <-returned, aborted)
	parts.Exec(t, app, "COMMIT")
	w.requireAsBefore(t)
	require.NotContains(t, w.happened(), "evicted")
}

func TestATransactionThatOutlastsTheEscortIsCutAndCounted(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w, app := lonely(p), p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		escorted, err := w.escort(3*time.Second).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		require.Contains(t, w.happened(), "evicted")
		require.True(t, strings.HasPrefix(escorted.AbortedDetail, "1 transaction in flight"), escorted.AbortedDetail)
		require.Equal(t, 1, escorted.AbortedTransactions)
	})
}

// A pod that is not told to stop by then has less than its grace, or dies unsignalled.
func TestAPoolerThatMustLeaveIsEvictedByThenThoughATransactionIsInFlight(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w, app := lonely(p), p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		r := w.request(t)
		r.EvictBy = time.Now().Add(4 * time.Second)
		escorted, err := w.escort(time.Hour).Run(t.Context(), r)
		require.NoError(t, err)
		require.Contains(t, w.happened(), "evicted")
		require.True(t, strings.HasPrefix(escorted.AbortedDetail, "1 transaction in flight"), escorted.AbortedDetail)
	})
}

func TestSessionsEndBetweenTheirTransactions(t *testing.T) {
	t.Parallel()
	pair(t, parts.Options{PoolMode: "session"}, func(t *testing.T, leaving, staying *parts.Pooler) {
		idle := leaving.Connect(t)
		parts.Exec(t, idle, "SELECT")
		w, busy := lonely(leaving), work(t, leaving, staying)
		escorted, err := w.escort(minute).Run(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, leaving.Ended())
		busy.requireNothingCut(t)
		require.Contains(t, escorted.Reason, "sessions are pooled")
		require.Empty(t, escorted.AbortedDetail)
		t.Logf("%+v", escorted)
	})
}

func TestAHookIsTheTimeInWhichAPoolerOfTheOlderGenerationIsEmptied(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, "1.18", parts.Options{})
	w, busy := lonely(p), work(t, p, parts.Start(t, "1.18", parts.Options{}))
	w.pod.Containers = []escort.Container{{Name: "pgbouncer", PreStop: []string{"sleep", "30"}}}
	w.hook = 30 * time.Second
	began := time.Now()
	_, err := w.escort(minute).Run(t.Context(), w.request(t))
	require.NoError(t, err)
	within(t, p.Ended())
	require.Less(t, time.Since(began), w.hook, "it does not wait for the hook")
	busy.requireNothingCut(t)
	require.Equal(t, []string{"holds quiesce-pooler-uid-owner", "dry run", "marked", "evicted", "lets go"}, w.happened())
}

func TestAPoolerOfTheNewerGenerationThatWasSignalledEndsThoughTheDrainIsOver(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	w, app := lonely(p), p.Connect(t)
	parts.Exec(t, app, "BEGIN")
	over := errors.New("the slice is over")
	cancel, returned := aside(t, func(ctx context.Context) (drain.EscortResult, error) {
		return w.escort(minute).Run(ctx, w.request(t))
	})
	c := open(t, p)
	require.Eventually(t, func() bool {
		shutting, err := c.ShuttingDown(t.Context())
		return err == nil && shutting
	}, patience, glance)
	c.Close()
	require.NoError(t, pass(t.Context(), 2*signalInterval))
	cancel(over)
	require.ErrorIs(t, <-returned, over)
	parts.Exec(t, app, "COMMIT")
	within(t, p.Ended())
	require.True(t, p.State().Success(), p.Log(t))
}
