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

func TestAFarewellEndsAPoolerWhenNothingIsInFlight(t *testing.T) {
	t.Parallel()
	pair(t, parts.Options{}, func(t *testing.T, leaving, staying *parts.Pooler) {
		w, busy := lonely(leaving), work(t, leaving, staying)
		escorted, err := w.escort(minute).ShutDown(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, leaving.Ended())
		busy.requireNothingCut(t)
		require.Equal(t, "shutdown", escorted.Strategy)
		require.Empty(t, escorted.AbortedDetail)
		require.Nil(t, w.note())
	})
}

func TestAFarewellCutsWhatOutlastsItAndSaysSo(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w, app := lonely(p), p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		escorted, err := w.escort(time.Second).ShutDown(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, p.Ended())
		require.True(t, strings.HasPrefix(escorted.AbortedDetail, "1 transaction in flight"), escorted.AbortedDetail)
	})
}

func TestAFarewellThatIsAbortedLeavesNothingPaused(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w, app := lonely(p), p.Connect(t)
	parts.Exec(t, app, "BEGIN")
	aborted := errors.New("the instance came back")
	cancel, returned := aside(t, func(ctx context.Context) (drain.EscortResult, error) {
		return w.escort(minute).ShutDown(ctx, w.request(t))
	})
	require.Eventually(t, func() bool { return strings.Contains(p.Log(t), "PAUSE command issued") }, patience, glance)
	cancel(aborted)
	require.ErrorIs(t, <-returned, aborted)
	require.NoError(t, workOnce(p))
	parts.Exec(t, app, "COMMIT")
	w.requireAsBefore(t)
}

func TestAFarewellToAPoolerWithoutAConsoleFails(t *testing.T) {
	t.Parallel()
	w := lonely(parts.Start(t, parts.Newer, parts.Options{}))
	w.logins = nil
	_, err := w.escort(minute).ShutDown(t.Context(), w.request(t))
	require.ErrorIs(t, err, escort.ErrNoLogin)
}
