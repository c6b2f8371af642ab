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

func TestShutDown_BusyPooler_AbortsNothing(t *testing.T) {
	t.Parallel()
	eachGeneration(t, parts.Options{}, func(t *testing.T, drained, other *parts.Pooler) {
		w, busy := newCluster(drained), work(t, drained, other)
		result, err := w.escort(minute).ShutDown(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, drained.Ended())
		busy.requireNothingAborted(t)
		require.Equal(t, "shutdown", result.Strategy)
		require.Empty(t, result.AbortedDetail)
		require.Nil(t, w.saved())
	})
}

func TestShutDown_TransactionOutlastsTimeout_IsCounted(t *testing.T) {
	t.Parallel()
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		w, app := newCluster(p), p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		result, err := w.escort(time.Second).ShutDown(t.Context(), w.request(t))
		require.NoError(t, err)
		within(t, p.Ended())
		require.True(t, strings.HasPrefix(result.AbortedDetail, "1 transaction open"), result.AbortedDetail)
	})
}

func TestShutDown_DrainAborted_Resumes(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Older, parts.Options{})
	w, app := newCluster(p), p.Connect(t)
	parts.Exec(t, app, "BEGIN")
	aborted := errors.New("the instance came back")
	cancel, returned := inBackground(t, func(ctx context.Context) (drain.EscortResult, error) {
		return w.escort(minute).ShutDown(ctx, w.request(t))
	})
	require.Eventually(t, func() bool { return strings.Contains(p.Log(t), "PAUSE command issued") }, testTimeout, pollInterval)
	cancel(aborted)
	require.ErrorIs(t, <-returned, aborted)
	require.NoError(t, workOnce(p))
	parts.Exec(t, app, "COMMIT")
	w.requireRestored(t)
}

func TestShutDown_NoConsole_Fails(t *testing.T) {
	t.Parallel()
	w := newCluster(parts.Start(t, parts.Newer, parts.Options{}))
	w.logins = nil
	_, err := w.escort(minute).ShutDown(t.Context(), w.request(t))
	require.ErrorIs(t, err, escort.ErrNoLogin)
}
