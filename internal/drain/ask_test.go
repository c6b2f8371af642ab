package drain

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRequestTimes_Estimate_FollowsTheServer(t *testing.T) {
	var times requestTimes
	require.Equal(t, assumedDeletion, times.takes())
	blocked := response{evicted: true, evictTook: 100 * time.Millisecond, err: &Blocked{}}
	times.note(blocked)
	require.Equal(t, 100*time.Millisecond+assumedDeletion, times.takes())
	times.note(response{deletedWith: time.Second, deleteTook: time.Second})
	require.Equal(t, 1100*time.Millisecond, times.takes())
	for range 30 {
		times.note(response{deletedWith: time.Second, deleteTook: 3 * time.Second})
	}
	require.InDelta(t, 3.1, times.takes().Seconds(), 0.01)
	times.note(response{deletedWith: time.Second, err: errors.New("connection refused")})
	require.InDelta(t, 3.1, times.takes().Seconds(), 0.01, "a request that fails at once")
	for range 30 {
		times.note(response{deletedWith: time.Second, deleteTook: time.Hour, err: errNoAnswer})
	}
	require.InDelta(t, 5.1, times.takes().Seconds(), 0.01, "a hanging request is bounded")
}

// A failure that comes soon says nothing. One that takes long does, and so does a success that is soon.
func TestRequestTimes_Evictions_FailuresCountOnlyIfSlow(t *testing.T) {
	var times requestTimes
	note := func(took time.Duration, err error) {
		for range 60 {
			times.note(response{evicted: true, evictTook: took, err: err})
		}
	}
	note(2*time.Second, nil)
	require.InDelta(t, 2, times.evict.average.Seconds(), 0.01)
	note(time.Second, errors.New("connection refused"))
	require.InDelta(t, 2, times.evict.average.Seconds(), 0.01)
	note(3*time.Second, errors.New("connection refused"))
	require.InDelta(t, 3, times.evict.average.Seconds(), 0.01)
	note(time.Second, nil)
	require.InDelta(t, 1, times.evict.average.Seconds(), 0.01)
}

// Of seven pods that share their last moment, three can be asked for at once.
func TestSpread_PodsShareAMoment_StartInRounds(t *testing.T) {
	const s = time.Second
	var pods []*Planned
	for _, need := range []time.Duration{90, 30, 30, 30, 30, 30, 30, 30, 5} {
		pods = append(pods, &Planned{need: need * s})
	}
	Ask{Takes: 2 * s, AtOnce: 3}.spread(pods)
	var got []time.Duration
	for _, p := range pods {
		got = append(got, p.need/s)
	}
	require.Equal(t, []time.Duration{92, 36, 34, 34, 34, 32, 32, 32, 7}, got)
}

func TestDeleteBy_LastDeletion_HasItsOwnTime(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for left, want := range map[time.Duration]time.Duration{
		time.Minute: deleteTimeout, 10 * time.Second: 5 * time.Second, 4 * time.Second: dueTimeout,
		3 * time.Second: deleteTimeout, 0: deleteTimeout,
	} {
		require.Equal(t, want, Limits{Deadline: now.Add(left)}.deleteBy(time.Second, now).Sub(now), left)
	}
	require.Equal(t, 8*time.Second, Limits{Deadline: now.Add(10 * time.Second)}.deleteBy(4*time.Second, now).Sub(now), "a slow server")
}
