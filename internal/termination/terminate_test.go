package termination

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

func web(name string) drain.Pod { return drain.Pod{Ref: drain.Ref{Name: name}} }

// invoke runs one invocation with Lambda's full fifteen minutes.
func invoke(t *testing.T, h *Handler) (Report, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	answer, err := h.Invoke(ctx, nil)
	return answer.(Report), err
}

// A drain that does things in another order loses pods (evicting before the cordon), evicts what it must not (before
// verifying), or leaves the instance waiting.
func TestEffectsComeInThePromisedOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		pod := web("db-0")
		pod.Claims = []string{"data-db-0"}
		w.node.Add(pod, time.Second)
		w.others = []Instance{{ID: "i-0def", State: "Terminating:Wait"}, {ID: "i-0fed", State: "InService"}}
		report, err := invoke(t, w.handler())
		require.NoError(t, err)
		require.Equal(t, []string{
			"own", "cordon node-i-0abc1234", "repel node-i-0def", "evict app/db-0", "volumes", "complete t-1 CONTINUE", "release",
		}, w.effects())
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, Continue, report.LifecycleResult)
		require.Equal(t, []string{"app/data-db-0"}, w.claims)
	})
}

func TestNothingIsWrittenForAnInstanceThatStaysInService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.state = "InService"
		began := time.Now()
		report, err := invoke(t, w.handler())
		require.NoError(t, err)
		require.Equal(t, StatusRejected, report.Status)
		require.Contains(t, report.Reason, "InService")
		require.GreaterOrEqual(t, time.Since(began), maxDescriptionLag, "descriptions can lag")
		require.Equal(t, []string{"restore node-i-0abc1234"}, w.effects(), "which writes nothing to a node without our mark")
	})
}

// A rejection that fails silently on its way leaves a node cordoned that is paid for and not used.
func TestANodeThatCannotBeRestoredIsAFailureAndOneThatNeedNotBeIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.state = "InService"
		w.faults["find"] = []error{errors.New("the API server is down")}
		_, err := invoke(t, w.handler())
		require.ErrorContains(t, err, "the API server is down")

		w = newWorld()
		w.state = "Terminating:Proceed"
		w.faults["connect"] = []error{errors.New("the API server is down")}
		report, err := invoke(t, w.handler())
		require.NoError(t, err)
		require.Equal(t, StatusRejected, report.Status)
	})
}

func TestADescriptionThatLagsIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.state = "InService"
		time.AfterFunc(10*time.Second, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.state = "Terminating:Wait"
		})
		report, err := invoke(t, w.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
	})
}

func TestEveryStateButWaitingIsRejected(t *testing.T) {
	for state, says := range map[string]string{
		"":                        "not in group",
		"Terminating:Proceed":     "already past the wait state",
		"Terminated":              "not waiting",
		"Pending:Wait":            "not waiting",
		"Warmed:Stopped":          "not waiting",
		"Terminating:Retained":    "not waiting",
		"Warmed:Terminating:Wait": "not waiting",
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.state = state
			report, err := invoke(t, w.handler())
			require.NoError(t, err)
			require.Equal(t, StatusRejected, report.Status, state)
			require.Contains(t, report.Reason, says)
			require.Empty(t, w.effects())
		})
	}
}

func TestForeignGroupsAndHooksAreLeftAlone(t *testing.T) {
	for _, foreign := range []Termination{
		{Group: "theirs", Hook: "quiesce", InstanceID: "i-0abc1234"},
		{Group: "workers-a", Hook: "Terminate-LC-Hook", InstanceID: "i-0abc1234"},
	} {
		w := newWorld()
		h := w.handler()
		h.Parse = func([]byte) Delivery { return Delivery{Records: []Record{{Termination: &foreign}}} }
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusSkipped, report.Status)
		require.Empty(t, w.effects())
	}
}

func TestOnlyOneInvocationDrainsAnInstance(t *testing.T) {
	w := newWorld()
	w.leased = true
	report, err := invoke(t, w.handler())
	require.NoError(t, err)
	require.Equal(t, StatusSkipped, report.Status)
	require.Empty(t, w.effects())
	require.Len(t, failedItems([]Record{{MessageID: "m-1"}}, []outcome{{report: report}}).Failures, 1, "the record comes again")
}

func TestASliceThatEndsBeforeTheNodeIsEmptyCompletesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.node.Add(web("slow"), 20*time.Minute)
		began := time.Now()
		report, err := invoke(t, w.handler())
		var incomplete *Incomplete
		require.ErrorAs(t, err, &incomplete)
		require.ErrorContains(t, err, "app/slow")
		require.Equal(t, StatusIncomplete, report.Status)
		require.Equal(t, 15*time.Minute-handOffReserve, time.Since(began))
		require.Empty(t, w.completed)
		require.Contains(t, w.effects(), "release", "the next slice need not wait for the lease to expire")
	})
}

func TestTheDeadlineLetsTheInstanceGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.node.Add(web("stuck"), time.Hour)
		h := w.handler()
		h.Policy.Bounds.MaxDuration = 5 * time.Minute
		began := time.Now()
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Equal(t, 4*time.Minute+30*time.Second, time.Since(began))
		require.Equal(t, []Result{Continue}, w.completed)
	})
}

func TestANodeThatIsStillJoiningIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.joins = time.Now().Add(9 * time.Second)
		w.node.Add(web("web"), 0)
		report, err := invoke(t, w.handler())
		require.NoError(t, err)
		require.Len(t, report.Pods, 1)
	})
}

func TestAnInstanceWithoutANodeGoesAfterTheJoinGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.node = nil
		began := time.Now()
		report, err := invoke(t, w.handler())
		require.NoError(t, err)
		require.Equal(t, Continue, report.LifecycleResult)
		require.Contains(t, report.Reason, "no node")
		require.Equal(t, 15*time.Second, time.Since(began))
	})
}

func TestAnInstanceThatIsGoneIsWaitedForNeitherToJoinNorToStopItsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.gone = true
		w.node.Add(web("web"), time.Hour)
		began := time.Now()
		report, err := invoke(t, w.handler())
		require.NoError(t, err)
		require.Zero(t, time.Since(began))
		require.Contains(t, w.effects(), "evict app/web", "its successor is wanted elsewhere")
		require.Equal(t, StatusPartial, report.Status)
		require.Equal(t, Continue, report.LifecycleResult)
	})
}

// blocked is a world with a pod that its budget never lets go, and a handler with five minutes for it, of which half a minute is
// kept back.
func blocked(stop time.Duration) (*world, *Handler) {
	w := newWorld()
	pod := web("web")
	pod.Grace, pod.Labels = 30*time.Second, map[string]string{"budget": "b"}
	w.node.Add(pod, stop)
	w.node.Allow("b", 0)
	h := w.handler()
	h.Policy.Force, h.Policy.Bounds.MaxDuration = true, 5*time.Minute
	return w, h
}

func TestAPodThatWouldBeLeftIsForcedInTimeIfThePolicySaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := blocked(10 * time.Second)
		began := time.Now()
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusForced, report.Status)
		require.Empty(t, report.Reason)
		require.Equal(t, drain.Forced, report.Pods[0].Outcome)
		require.Equal(t, 4*time.Minute, report.Pods[0].ForcedAt.Sub(began), "of the action's own clock")
		require.Equal(t, 4*time.Minute+10*time.Second, time.Since(began))
		require.Equal(t, []Result{Continue}, w.completed)
	})
}

func TestAForcedPodThatStillStopsAtTheDeadlineIsNoPodThatWasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := blocked(30 * time.Second)
		w.node.Fail("delete app/web", errors.New("no")) // which leaves it less than it takes
		h.Policy.Bounds.MaxDuration += 100 * time.Millisecond
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusForced, report.Status)
		require.Equal(t, "deadline reached", report.Reason)
		require.Equal(t, drain.Forced, report.Pods[0].Outcome)
		require.Contains(t, report.Pods[0].Reason, "still stopping when deadline reached")
		require.Equal(t, []Result{Continue}, w.completed)
	})
}

func TestVolumesAreWaitedForButNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		pod := web("db-0")
		pod.Claims = []string{"data"}
		w.node.Add(pod, 0)
		w.detach = time.Hour
		began := time.Now()
		report, err := invoke(t, w.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, time.Minute, time.Since(began))
	})
}

func TestAFailedStepIsAFunctionErrorThatNamesIt(t *testing.T) {
	for _, step := range []string{"connect", "own", "hook", "find", "cordon", "watch"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.faults[step] = []error{errors.New("no: " + step)}
			report, err := invoke(t, w.handler())
			var failed *Failed
			require.ErrorAs(t, err, &failed)
			require.ErrorContains(t, err, "no: "+step)
			require.Equal(t, StatusFailed, report.Status)
			require.Empty(t, w.completed)
		})
	}
}

func TestEC2IsOnlyAShortCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.faults["machines"] = []error{errors.New("UnauthorizedOperation")}
		w.node.Add(web("web"), 0)
		report, err := invoke(t, w.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
	})
}

func TestShadowChangesNothingAndLetsTheInstanceGo(t *testing.T) {
	w := newWorld()
	w.node.Add(web("web"), 0)
	h := w.handler()
	h.Policy.Shadow = true
	report, err := invoke(t, h)
	require.NoError(t, err)
	require.Equal(t, []string{"complete t-1 CONTINUE"}, w.effects())
	require.Equal(t, StatusPlanned, report.Status)
	require.Equal(t, drain.Evict, report.Pods[0].Verdict)
	require.Empty(t, report.Pods[0].Outcome)
}

func TestAPlanChangesNothing(t *testing.T) {
	w := newWorld()
	w.node.Add(web("web"), 0)
	h := w.handler()
	for _, request := range []Request{
		{Action: ActionPlan, InstanceID: event.InstanceID}, {Action: ActionPlan, Node: "node-1"},
	} {
		h.Parse = func([]byte) Delivery { return Delivery{Records: []Record{{Request: &request}}} }
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusPlanned, report.Status)
		require.Len(t, report.Pods, 1)
		require.InDelta(t, 29*60+30, report.Plan.Deadline.AvailableSeconds, 1)
	}
	require.Empty(t, w.effects())
}

func TestAManualDrainIsRefusedUnlessTheInstanceWaitsOrTheOperatorAllowsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		byHand := func(w *world, allow bool) Report {
			w.node.Add(web("web"), 0)
			h := w.handler()
			h.Policy.AllowManualDrain = allow
			request := Request{Action: ActionDrain, InstanceID: event.InstanceID}
			h.Parse = func([]byte) Delivery { return Delivery{Records: []Record{{Request: &request}}} }
			report, err := invoke(t, h)
			require.NoError(t, err)
			return report
		}
		waiting := newWorld()
		require.Equal(t, StatusDrained, byHand(waiting, false).Status)
		require.Equal(t, []Result{Continue}, waiting.completed)

		inService := newWorld()
		inService.state = "InService"
		require.Equal(t, StatusRejected, byHand(inService, false).Status)
		require.Empty(t, inService.effects())

		allowed := newWorld()
		allowed.state = "InService"
		require.Equal(t, StatusDrained, byHand(allowed, true).Status)
		require.Contains(t, allowed.effects(), "evict app/web")
		require.Empty(t, allowed.completed, "nobody terminates it")
		require.Empty(t, allowed.cordonedFor, "and its node stays closed, whatever a sweep finds")
		require.Equal(t, "quiesce", waiting.cordonedFor)
	})
}
