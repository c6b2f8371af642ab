package escort

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

func TestPoll_ConditionMet_ReturnsAtOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		began, asked := time.Now(), 0
		require.NoError(t, Poll(t.Context(), began.Add(time.Minute), time.Second, func() (bool, error) {
			asked++
			return asked == 3, nil
		}))
		require.Equal(t, 2*time.Second, time.Since(began))
	})
}

func TestPoll_ConditionFails_ReturnsTheError(t *testing.T) {
	failure := errors.New("forbidden")
	err := Poll(t.Context(), time.Now().Add(time.Minute), time.Second, func() (bool, error) { return false, failure })
	require.ErrorIs(t, err, failure)
}

func TestPoll_Deadline_ReturnsErrTimeout(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		began := time.Now()
		err := Poll(t.Context(), began.Add(2500*time.Millisecond), time.Second, func() (bool, error) { return false, nil })
		require.ErrorIs(t, err, ErrTimeout)
		require.NoError(t, IgnoreTimeout(err))
		require.Equal(t, 2500*time.Millisecond, time.Since(began))
	})
}

func TestPollOr_Done_Returns(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		began, done := time.Now(), make(chan struct{})
		time.AfterFunc(1500*time.Millisecond, func() { close(done) })
		require.NoError(t, PollOr(t.Context(), done, began.Add(time.Minute), time.Second, func() (bool, error) { return false, nil }))
		require.Equal(t, 1500*time.Millisecond, time.Since(began))
	})
}

func TestSleep_ContextEnds_ReturnsItsCause(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		over := errors.New("the invocation is over")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, over)
		defer cancel()
		require.NoError(t, Sleep(ctx, time.Millisecond))
		require.ErrorIs(t, Sleep(ctx, time.Minute), over)
	})
}

// An invocation ends at the moment at which an escort's time does. What follows the timeout would need the invocation.
func TestPoll_EndsWithItsContext_IsTheCause(t *testing.T) {
	over := errors.New("the invocation is over")
	for range 1000 {
		bubble.Test(t, func(t *testing.T) {
			end := time.Now().Add(time.Second)
			ctx, cancel := context.WithDeadlineCause(t.Context(), end, over)
			defer cancel()
			require.ErrorIs(t, Poll(ctx, end, time.Hour, func() (bool, error) { return false, nil }), over)
		})
	}
}
