package drain

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Half of the time that is left is for a second request. Near the deadline there is no second one.
func TestAnswerBy_NearTheDeadline_LastRequestHasTime(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for left, want := range map[time.Duration]time.Duration{
		time.Minute:            dueTimeout,
		4 * time.Second:        2 * time.Second,
		600 * time.Millisecond: minDueTimeout,
		0:                      minDueTimeout,
	} {
		limits := Limits{StartedAt: now.Add(-time.Hour), Deadline: now.Add(left)}
		require.Equal(t, want, limits.answerBy(now.Add(-time.Second), now).Sub(now), left)
	}
	limits := Limits{StartedAt: now.Add(-time.Hour), Deadline: now.Add(time.Hour)}
	require.Equal(t, time.Minute, limits.answerBy(now.Add(time.Minute), now).Sub(now), "a pod that is not due yet")
}

// refusing is a cluster in which the escort becomes late while its eviction is refused.
type refusing struct {
	Cluster
	late    func()
	deleted int
}

func (c *refusing) Evict(context.Context, Ref, EvictOptions) error {
	c.late()
	return &Blocked{Reason: "no disruption allowed"}
}

func (c *refusing) Delete(ctx context.Context, _ Ref, _ time.Duration) error {
	c.deleted++
	return ctx.Err()
}

// Found by the simulation, seed 192999: the deletion was given up with its escort, and the pod was never told to stop.
func TestEvictOrDelete_EscortEndsMeanwhile_StillDeletes(t *testing.T) {
	escort, end := context.WithCancelCause(t.Context())
	cluster := &refusing{late: func() { end(ErrEscortLate) }}
	now := time.Now()
	r := &run{cluster: cluster, requests: t.Context(), Drainer: Drainer{Limits: Limits{StartedAt: now.Add(-time.Hour), Deadline: now.Add(time.Minute), Force: true}}}
	got := r.evictOrDelete(escort, Pod{Grace: time.Second}, EvictOptions{}, r.Limits)
	require.NoError(t, got.err)
	require.Equal(t, 1, cluster.deleted)
	require.Equal(t, time.Second, got.deletedWith)
}
