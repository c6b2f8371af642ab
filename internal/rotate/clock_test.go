package rotate

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

// The monotonic clock stops while a computer sleeps. A bubble of synctest has none, so this test takes the real clock.
func TestRotation_TimesOfTheRecord_AreOfTheWallClock(t *testing.T) {
	w := newWorld(t, true)
	w.clients, w.poolers = nil, w.poolers[:1]
	r := w.rotation()
	kept := &keeping{fakeUserlists: w.userlists()}
	r.Userlists, r.QuietFor, r.haste = kept, time.Millisecond, 100
	_, err := r.Run(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, kept.times)
	for _, at := range kept.times {
		require.NotContains(t, at.String(), "m=", "a monotonic time")
	}
}

// keeping keeps the times of all records.
type keeping struct {
	fakeUserlists
	times []time.Time
}

func (k *keeping) SetRecord(ctx context.Context, r Record) error {
	k.times = append(k.times, r.Since, r.Looked)
	return k.fakeUserlists.SetRecord(ctx, r)
}

// A record whose quiet time begins after its last look would be refused by the next run.
func TestRotation_ClockWasSetBack_RecordCanBeRead(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, false)
		w.clients, w.kept = nil, map[string]bool{}
		before := time.Now().Add(time.Hour)
		record := w.rotation().lookOnce(t.Context(), Record{From: blue, To: green, Step: Quiet, Since: before, Looked: before})
		_, err := ParseRecord(record.Text(), [2]string{blue, green}, time.Now())
		require.NoError(t, err)
	})
}
