package postgres

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

// failsOnce fails one read of the facts: the first, the second...
type failsOnce struct {
	Clusters
	reads *int
	at    int
}

func (c failsOnce) Facts(ctx context.Context, i Identity) (Facts, error) {
	if *c.reads++; *c.reads == c.at {
		return Facts{}, errors.New("etcdserver: request timed out")
	}
	return c.Clusters.Facts(ctx, i)
}

// One read that fails at the end of the drain's time costs no client anything: the primary still moves under a pause.
func TestRun_ReadFailsWhenTimeRunsOut_LooksAgainAndMoves(t *testing.T) {
	for _, at := range []int{0, 1, 2, 3} { // connecting, the first look, the move's, the move's under its Leases
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				reads, connections := 0, 0
				e, i := w.escort()
				connect, clusters := e.Connect, e.Clusters
				e.Connect = func(ctx context.Context) (Cluster, error) {
					if connections++; at == 0 && connections == 1 {
						return nil, errors.New("connection refused")
					}
					return connect(ctx)
				}
				e.Clusters = func(c Cluster) Clusters { return failsOnce{clusters(c), &reads, at} }
				result, err, _ := w.runAs(t, e, i, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(lastLead - time.Second) })
				require.NoError(t, err)
				require.Equal(t, "last", result.Strategy)
				require.Contains(t, result.Reason, "moved to pg-1")
				requireOrder(t, w.effects, "request pg-0 to pg-1", "evict pg-0")
				require.GreaterOrEqual(t, reads, at)
				w.requireNothingPaused(t)
			})
		})
	}
}

// What is never read does not keep the member until it dies with its node: enough is left for its grace.
func TestRun_NothingReadWhenTimeRunsOut_EvictedBeforeTimeForAMoveIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		e, i := w.escort()
		e.Connect = func(context.Context) (Cluster, error) { return nil, errors.New("no route to host") }
		evictBy := time.Now().Add(lastLead - time.Second)
		_, err, _ := w.runAs(t, e, i, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = evictBy })
		require.NoError(t, err)
		require.Equal(t, []string{"pg-0"}, w.evicted)
		require.InDelta(t, lastMove+lastRetry, time.Until(evictBy), float64(lastRetry))
	})
}
