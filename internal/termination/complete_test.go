package termination

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

// A completion on the drain's own context would fail when that has ended, and the instance would wait for the whole timeout of its hook.
func TestComplete_ContextEnded_StillCompletes(t *testing.T) {
	env := newTestEnv()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, env.handler().newJob(event).complete(ctx, Continue))
	require.Equal(t, []Result{Continue}, env.completed)

	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	require.NoError(t, env.handler().newJob(event).complete(late, Continue), "a late answer costs less than an instance that waits")
}

// Auto Scaling gives the same answer for an action that has ended and for one that has just begun.
func TestComplete_NoActiveAction_BelievedOnlyIfNotWaiting(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.errors["complete"] = []error{ErrNoActiveAction, ErrNoActiveAction}
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, Continue, report.LifecycleResult, "it is retried because the instance still waits")

		env = newTestEnv()
		env.errors["complete"] = []error{ErrNoActiveAction}
		env.node.Add(web("web"), time.Second)
		time.AfterFunc(500*time.Millisecond, func() { env.setState("Terminating:Proceed") })
		report, err = invoke(t, env.handler())
		require.NoError(t, err)
		require.Empty(t, report.LifecycleResult)
		require.Contains(t, report.Reason, "ended already")
	})
}

func TestComplete_StaleToken_CompletesCurrentAction(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.token = "t-2"
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, Continue, report.LifecycleResult)
		require.Subset(t, env.effects(), []string{"complete t-1 CONTINUE", "complete  CONTINUE"})
	})
}

// A group can have a second hook, such as the one of EKS for its node groups. After our completion, a duplicate event finds the instance
// waiting without an action of ours. Retrying until the other hook ends would take hours.
func TestComplete_DuplicateAndOtherHook_EndsWithoutError(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.failAlways("complete", ErrNoActiveAction)
		again := event
		again.Began = time.Now().Add(-10 * time.Minute)
		began := time.Now()
		env.activities = map[string]time.Time{event.InstanceID: again.Began}
		report, err := deliver(t, env.handler(), Record{Termination: &again})
		require.NoError(t, err)
		require.Empty(t, report.LifecycleResult)
		require.Contains(t, report.Reason, "waits on another hook")
		require.Less(t, time.Since(began), 5*time.Second)
	})
}

// If a new action were taken for one that has ended, it would never be completed.
func TestComplete_NewActionDenied_Retries(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		heal := env.failAlways("complete", ErrNoActiveAction)
		time.AfterFunc(20*time.Second, heal)
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, Continue, report.LifecycleResult)
	})
}

func TestComplete_Throttled_RetriesWhileTimeRemains(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		heal := env.failAlways("complete", errors.New("Throttling: Rate exceeded"))
		time.AfterFunc(45*time.Second, heal)
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, Continue, report.LifecycleResult)

		env = newTestEnv()
		env.failAlways("complete", errors.New("Throttling: Rate exceeded"))
		began := time.Now()
		report, err = invoke(t, env.handler())
		var failed *Failed
		require.ErrorAs(t, err, &failed, "the next delivery continues")
		require.ErrorContains(t, err, "Rate exceeded")
		require.Equal(t, StatusFailed, report.Status)
		require.Equal(t, completeTimeout, time.Since(began))
	})
}

// A hundred drains may end in one minute. Asking a throttled account twice a second keeps it throttled.
func TestComplete_Throttled_AsksLessAndLess(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.failAlways("complete", errors.New("Throttling: Rate exceeded"))
		_, err := invoke(t, env.handler())
		require.ErrorContains(t, err, "Rate exceeded")
		asked := 0
		for _, effect := range env.effects() {
			if strings.HasPrefix(effect, "complete ") {
				asked++
			}
		}
		require.Greater(t, asked, 10)
		require.Less(t, asked, 40)
	})
}

// The rest of the invocation bounds the completion: a function that is killed during it answers nothing.
func TestComplete_KeepsFailing_EndsBeforeInvocation(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.failAlways("complete", errors.New("Throttling: Rate exceeded"))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := env.handler().Invoke(ctx, nil)
		require.ErrorContains(t, err, "Rate exceeded")
		require.NoError(t, ctx.Err())
	})
}

// Where the group retains abandoned instances, ABANDON keeps one for inspection. Elsewhere it only ends the other hooks.
func TestDrain_FailedUntilDeadline_OnFailureDecides(t *testing.T) {
	for _, policy := range []Result{Continue, Abandon} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.failAlways("find", errors.New("forbidden"))
			h := env.handler()
			h.Policy.OnFailure = policy
			_, err := invoke(t, h)
			require.ErrorContains(t, err, "forbidden", "there is time for another try")
			require.Empty(t, env.completed)

			late := event
			env.activities = map[string]time.Time{event.InstanceID: time.Now().Add(-time.Hour)}
			report, err := deliver(t, h, Record{Termination: &late, FirstReceived: time.Now().Add(-time.Hour)})
			require.NoError(t, err)
			require.Equal(t, StatusFailed, report.Status)
			require.Equal(t, []Result{policy}, env.completed)
		})
	}
}

// A node that returns from a warm pool, or was retained, is drained again for its next action.
func TestDrain_InstanceMovesToWarmPool_DrainedAndCompleted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.state = "Warmed:Pending:Wait"
		env.node.Add(web("web"), time.Second)
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

// hangingComplete fails once, and then does not answer.
type hangingComplete struct {
	Hooks
	asked int
}

func (h *hangingComplete) Complete(ctx context.Context, _ Termination, _ Result) error {
	if h.asked++; h.asked == 1 {
		return errors.New("Rate exceeded")
	}
	<-ctx.Done()
	return ctx.Err()
}

// That time ran out says nothing about why.
func TestComplete_LastRequestHangs_ErrorOfTheOneBefore(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := newTestEnv().handler()
		hooks := &hangingComplete{Hooks: h.Hooks}
		h.Hooks = hooks
		require.ErrorContains(t, h.newJob(event).complete(t.Context(), Continue), "Rate exceeded")
		require.Equal(t, 2, hooks.asked)
		require.ErrorIs(t, h.newJob(event).complete(t.Context(), Continue), context.DeadlineExceeded, "there was no other error")
	})
}
