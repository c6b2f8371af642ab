package termination

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// An instance that is held though its node is empty, because the context that drained it had ended, waits for the whole
// timeout of its hook.
func TestTheActionIsCompletedOnAContextOfItsOwn(t *testing.T) {
	w := newWorld()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, w.handler().newJob(event).complete(ctx, Continue))
	require.Equal(t, []Result{Continue}, w.completed)

	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	require.NoError(t, w.handler().newJob(event).complete(late, Continue), "an answer that comes too late costs less")
}

// The same words are said of an action that has ended and of one that has just begun.
func TestNoActiveActionIsBelievedOnlyOfAnInstanceThatNoLongerWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.faults["complete"] = []error{ErrNoActiveAction, ErrNoActiveAction}
		report, err := invoke(t, w.handler())
		require.NoError(t, err)
		require.Equal(t, Continue, report.LifecycleResult, "it was tried again, since the instance still waited")

		w = newWorld()
		w.faults["complete"] = []error{ErrNoActiveAction}
		w.node.Add(web("web"), time.Second)
		time.AfterFunc(500*time.Millisecond, func() { w.enter("Terminating:Proceed") })
		report, err = invoke(t, w.handler())
		require.NoError(t, err)
		require.Empty(t, report.LifecycleResult)
		require.Contains(t, report.Reason, "ended already")
	})
}

func TestAStaleTokenGivesWayToTheActionThatTheInstanceIsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.token = "t-2"
		report, err := invoke(t, w.handler())
		require.NoError(t, err)
		require.Equal(t, Continue, report.LifecycleResult)
		require.Subset(t, w.effects(), []string{"complete t-1 CONTINUE", "complete  CONTINUE"})
	})
}

// A group can have a second hook, such as the one that EKS gives its node groups. An event that comes again when ours is
// completed finds the instance waiting, and no action of ours: to retry until the other hook ends would take hours.
func TestADuplicateEndsWellWhileAnotherHookHoldsTheInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.failing("complete", ErrNoActiveAction)
		again := event
		again.Began = time.Now().Add(-10 * time.Minute)
		began := time.Now()
		report, err := deliver(t, w.handler(), Record{Termination: &again})
		require.NoError(t, err)
		require.Empty(t, report.LifecycleResult)
		require.Contains(t, report.Reason, "waits on another hook")
		require.Less(t, time.Since(began), 5*time.Second)
	})
}

// Of an action that has just begun it would be fatal to believe that it has ended: nobody would ever complete it.
func TestThatAYoungActionHasEndedIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		heal := w.failing("complete", ErrNoActiveAction)
		time.AfterFunc(20*time.Second, heal)
		report, err := invoke(t, w.handler())
		require.NoError(t, err)
		require.Equal(t, Continue, report.LifecycleResult)
	})
}

func TestAThrottledCompletionIsRepeatedWhileThereIsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		heal := w.failing("complete", errors.New("Throttling: Rate exceeded"))
		time.AfterFunc(45*time.Second, heal)
		report, err := invoke(t, w.handler())
		require.NoError(t, err)
		require.Equal(t, Continue, report.LifecycleResult)

		w = newWorld()
		w.failing("complete", errors.New("Throttling: Rate exceeded"))
		began := time.Now()
		report, err = invoke(t, w.handler())
		var failed *Failed
		require.ErrorAs(t, err, &failed, "and then the next delivery goes on")
		require.ErrorContains(t, err, "Rate exceeded")
		require.Equal(t, StatusFailed, report.Status)
		require.Equal(t, completeTimeout, time.Since(began))
	})
}

// What is left of the invocation bounds the completion: a function that is killed in it answers nothing.
func TestACompletionEndsBeforeTheInvocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.failing("complete", errors.New("Throttling: Rate exceeded"))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := w.handler().Invoke(ctx, nil)
		require.ErrorContains(t, err, "Rate exceeded")
		require.NoError(t, ctx.Err())
	})
}

// Where the group retains what is abandoned, that keeps a machine for somebody to look at; elsewhere it only ends other hooks.
func TestWhatADrainThatFailedIsWorthIsTheOperatorsToSay(t *testing.T) {
	for _, policy := range []Result{Continue, Abandon} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.failing("find", errors.New("forbidden"))
			h := w.handler()
			h.Policy.OnFailure = policy
			_, err := invoke(t, h)
			require.ErrorContains(t, err, "forbidden", "there is time for another try")
			require.Empty(t, w.completed)

			h.Policy.Bounds.MaxDuration, h.Policy.Bounds.CompletionReserve = 10*time.Second, 0
			h.Policy.Bounds.NodeJoinTimeout = time.Hour
			w.faults["find"] = nil
			w.node = nil // it never appears
			report, err := invoke(t, h)
			require.NoError(t, err)
			require.Equal(t, StatusFailed, report.Status)
			require.Equal(t, []Result{policy}, w.completed)
		})
	}
}

// A node that comes back from a warm pool, or one that was retained, is drained again for the action of then.
func TestAnInstanceOnItsWayToTheWarmPoolIsDrainedAndCompletedLikeAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.state = "Warmed:Pending:Wait"
		w.node.Add(web("web"), time.Second)
		report, err := invoke(t, w.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, []Result{Continue}, w.completed)
	})
}
