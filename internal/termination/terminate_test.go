package termination

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

func web(name string) drain.Pod { return drain.Pod{Ref: drain.Ref{Name: name}} }

// invoke runs one invocation, with Lambda's full fifteen minutes.
func invoke(t *testing.T, h *Handler) (Report, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	answer, err := h.Invoke(ctx, nil)
	return answer.(Report), err
}

// In another order a drain loses pods (evicting before the cordon), evicts what it must not (before verifying), or leaves the instance
// waiting.
func TestDrain_Effects_ComeInPromisedOrder(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		pod := web("db-0")
		pod.Claims = []string{"data-db-0"}
		env.node.Add(pod, time.Second)
		env.peers = []Instance{{ID: "i-0def", State: "Terminating:Wait"}, {ID: "i-0fed", State: "InService"}}
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, []string{
			"acquire", "cordon node-i-0abc1234", "taint node-i-0def", "evict app/db-0", "volumes", "complete t-1 CONTINUE", "release",
		}, env.effects())
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, Continue, report.LifecycleResult)
		require.Empty(t, env.stay, "every volume is waited for")
	})
}

func TestVerify_StaysInService_NothingWritten(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.state = "InService"
		began := time.Now()
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusRejected, report.Status)
		require.Contains(t, report.Reason, "InService")
		require.GreaterOrEqual(t, time.Since(began), maxDescriptionLag, "descriptions can lag")
		require.Equal(t, []string{"untaint node-i-0abc1234"}, env.effects(), "nothing is undone that no Lease names")
	})
}

// Another invocation drains the node, such as for a rebalance recommendation: what it has done to the node stays.
func TestRejectedEvent_NodeIsBeingDrained_NothingIsUndone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.state, env.heldLeases = "InService", []string{event.InstanceID}
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusRejected, report.Status)
		require.Empty(t, env.effects())
	})
}

// If a rejection failed silently, a node would stay cordoned that is paid for and not used.
func TestRejectedEvent_RestoreFails_IsAnError(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.state = "InService"
		env.errors["find"] = []error{errors.New("the API server is down")}
		_, err := invoke(t, env.handler())
		require.ErrorContains(t, err, "the API server is down")

		env = newTestEnv()
		env.state = "Terminating:Proceed"
		env.errors["connect"] = []error{errors.New("the API server is down")}
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusRejected, report.Status)
	})
}

func TestVerify_DescriptionLags_AskedAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.state = "InService"
		time.AfterFunc(10*time.Second, func() {
			env.mu.Lock()
			defer env.mu.Unlock()
			env.state = "Terminating:Wait"
		})
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
	})
}

// An old event arrives again when the instance is in service, and the next action begins: it has its own clock. The old receipt would
// let it end at once.
func TestVerify_InServiceAtFirst_ReceiptOfOldEventIsNotItsClock(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.state = "InService"
		env.node.Add(web("slow"), 3*time.Minute)
		time.AfterFunc(5*time.Second, func() {
			env.mu.Lock()
			defer env.mu.Unlock()
			env.state = "Terminating:Wait"
		})
		h := env.handler()
		h.Policy.Bounds.MaxDuration = 10 * time.Minute
		received := time.Now().Add(-time.Hour)
		report, err := deliver(t, h, Record{Termination: &event, FirstReceived: received})
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status, report.Reason)
	})
}

func TestVerify_StateIsNotWaiting_Rejected(t *testing.T) {
	for state, says := range map[string]string{
		"":                     "not in group",
		"Terminating:Proceed":  "already past the wait state",
		"Terminated":           "not waiting",
		"Pending:Wait":         "not waiting",
		"Warmed:Stopped":       "not waiting",
		"Terminating:Retained": "not waiting",
	} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.state = state
			report, err := invoke(t, env.handler())
			require.NoError(t, err)
			require.Equal(t, StatusRejected, report.Status, state)
			require.Contains(t, report.Reason, says)
			require.Empty(t, env.effects())
		})
	}
}

func TestDelivery_OtherGroupOrHook_Skipped(t *testing.T) {
	for _, foreign := range []Termination{
		{Group: "theirs", Hook: "quiesce", InstanceID: "i-0abc1234"},
		{Group: "workers-a", Hook: "Terminate-LC-Hook", InstanceID: "i-0abc1234"},
	} {
		env := newTestEnv()
		h := env.handler()
		h.Parse = func([]byte) Delivery { return Delivery{Records: []Record{{Termination: &foreign}}} }
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusSkipped, report.Status)
		require.Empty(t, env.effects())
	}
}

func TestDrain_LeaseHeldElsewhere_Skipped(t *testing.T) {
	env := newTestEnv()
	env.heldElsewhere = true
	report, err := invoke(t, env.handler())
	require.NoError(t, err)
	require.Equal(t, StatusSkipped, report.Status)
	require.Empty(t, env.effects())
	require.Len(t, failedItems([]Record{{MessageID: "m-1"}}, []outcome{{report: report}}).Failures, 1, "the record comes again")
}

func TestHandOff_NodeNotEmpty_CompletesNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("slow"), 20*time.Minute)
		began := time.Now()
		report, err := invoke(t, env.handler())
		var incomplete *Incomplete
		require.ErrorAs(t, err, &incomplete)
		require.ErrorContains(t, err, "app/slow")
		require.Equal(t, StatusIncomplete, report.Status)
		require.Equal(t, 15*time.Minute-handOffReserve, time.Since(began))
		require.Empty(t, env.completed)
		require.Contains(t, env.effects(), "release", "the next invocation need not wait for the Lease to expire")
	})
}

func TestDeadline_Reached_CompletesAction(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("stuck"), time.Hour)
		h := env.handler()
		h.Policy.Bounds.MaxDuration = 5 * time.Minute
		began := time.Now()
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Equal(t, 4*time.Minute+30*time.Second, time.Since(began))
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

func TestFindNode_StillJoining_WaitedFor(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.joinsAt = time.Now().Add(9 * time.Second)
		env.node.Add(web("web"), 0)
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Len(t, report.Pods, 1)
	})
}

func TestFindNode_NoNode_CompletesAfterJoinTimeout(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node = nil
		began := time.Now()
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusNodeNotFound, report.Status)
		require.Equal(t, Continue, report.LifecycleResult)
		require.Contains(t, report.Reason, "no node")
		require.Equal(t, 15*time.Second, time.Since(began))
	})
}

func TestDrain_InstanceTerminated_WaitsForNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.terminated = true
		env.node.Add(web("web"), time.Hour)
		began := time.Now()
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Zero(t, time.Since(began))
		require.Contains(t, env.effects(), "evict app/web", "its replacement is needed elsewhere")
		require.Equal(t, StatusPartial, report.Status)
		require.Equal(t, Continue, report.LifecycleResult)
	})
}

// blockedEnv returns an environment with a pod that its PDB blocks, and a handler with five minutes for it, of which half a minute is the
// reserve.
func blockedEnv(stop time.Duration) (*testEnv, *Handler) {
	env := newTestEnv()
	pod := web("web")
	pod.Grace, pod.Labels = 30*time.Second, map[string]string{"budget": "b"}
	env.node.Add(pod, stop)
	env.node.Allow("b", 0)
	h := env.handler()
	h.Policy.Force, h.Policy.Bounds.MaxDuration = true, 5*time.Minute
	return env, h
}

// Each invocation began the phase's timeout again: the next phase waited for the deadline.
func TestPhases_DrainHandedOff_TimeoutGoesOn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := blockedEnv(2 * time.Second)
		h.Policy.Force, h.Policy.Bounds.MaxDuration = false, time.Hour
		env.node.Add(web("free"), time.Second)
		isBlocked := func(p drain.Pod) bool { return p.Name == "web" }
		h.Drainer.Phases = []drain.Phase{{Name: "blocked", Match: isBlocked, Timeout: 20 * time.Minute}, {Name: "workloads"}}
		began := time.Now()
		_, err := invoke(t, h)
		require.ErrorAs(t, err, new(*Incomplete))
		report, err := invoke(t, h)
		require.ErrorAs(t, err, new(*Incomplete))
		free := slices.IndexFunc(report.Pods, func(p drain.PodReport) bool { return p.Name == "free" })
		require.GreaterOrEqual(t, free, 0)
		require.InDelta(t, 20*time.Minute, report.Pods[free].EvictedAt.Sub(began), float64(5*time.Second))
		require.WithinDuration(t, began, report.Phases[0].StartedAt, 5*time.Second)
	})
}

func TestForce_PolicyOn_PodForcedInTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := blockedEnv(10 * time.Second)
		began := time.Now()
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusForced, report.Status)
		require.Empty(t, report.Reason)
		require.Equal(t, drain.Forced, report.Pods[0].Outcome)
		require.InDelta(t, 4*time.Minute, report.Pods[0].ForcedAt.Sub(began), float64(3*time.Second), "by the action's own clock")
		require.Equal(t, report.Pods[0].ForcedAt.Add(10*time.Second), time.Now())
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

func TestForce_StillStoppingAtDeadline_StatusForced(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := blockedEnv(30 * time.Second)
		env.node.Fail("delete app/web", slices.Repeat([]error{errors.New("no")}, 5)...) // so that it has less time than it needs
		h.Policy.Bounds.MaxDuration += 100 * time.Millisecond
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusForced, report.Status)
		require.Equal(t, "deadline reached", report.Reason)
		require.Equal(t, drain.Forced, report.Pods[0].Outcome)
		require.Contains(t, report.Pods[0].Reason, "deadline reached while still stopping")
		require.Equal(t, []Result{Continue}, env.completed)
	})
}

func TestVolumes_NeverDetach_WaitIsBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		pod := web("db-0")
		pod.Claims = []string{"data"}
		env.node.Add(pod, 0)
		env.detachTime = time.Hour
		began := time.Now()
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, time.Minute, time.Since(began))
	})
}

func TestDrain_StepFails_ErrorNamesIt(t *testing.T) {
	for _, step := range []string{"instance", "connect", "find", "watch"} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.errors[step] = []error{errors.New("no: " + step)}
			report, err := invoke(t, env.handler())
			var failed *Failed
			require.ErrorAs(t, err, &failed)
			require.ErrorContains(t, err, "no: "+step)
			require.Equal(t, StatusFailed, report.Status)
			require.Empty(t, env.completed)
		})
	}
}

func TestDescribeInstances_Fails_NodeIsSearched(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.errors["ec2"] = []error{errors.New("UnauthorizedOperation")}
		env.node.Add(web("web"), 0)
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
	})
}

func TestShadow_RealEvent_ChangesNothingAndCompletes(t *testing.T) {
	env := newTestEnv()
	env.node.Add(web("web"), 0)
	h := env.handler()
	h.Policy.Shadow = true
	report, err := invoke(t, h)
	require.NoError(t, err)
	require.Equal(t, []string{"complete t-1 CONTINUE"}, env.effects())
	require.Equal(t, StatusPlanned, report.Status)
	require.Equal(t, drain.Evict, report.Pods[0].Verdict)
	require.Empty(t, report.Pods[0].Outcome)
}

func TestPlan_InstanceOrNode_ChangesNothing(t *testing.T) {
	env := newTestEnv()
	env.node.Add(web("web"), 0)
	h := env.handler()
	for _, request := range []Request{
		{Action: ActionPlan, InstanceID: event.InstanceID}, {Action: ActionPlan, Node: "node-1"},
	} {
		h.Parse = func([]byte) Delivery { return Delivery{Records: []Record{{Request: &request}}} }
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusPlanned, report.Status)
		require.Len(t, report.Pods, 1)
		require.InDelta(t, 29*60+30, report.Plan.Deadline.AvailableSeconds, 1)
		require.Equal(t, "workers-a", report.Group)
		require.Equal(t, env.hook.HeartbeatTimeout.Seconds(), report.Plan.Deadline.HeartbeatTimeoutSeconds)
		require.Equal(t, env.hook.GlobalTimeout.Seconds(), report.Plan.Deadline.GlobalTimeoutSeconds)
	}
	require.Empty(t, env.effects())
}

func TestPlan_InstanceOfNoGroup_DeadlineHasNoHook(t *testing.T) {
	env := newTestEnv()
	env.state = ""
	env.node.Add(web("web"), 0)
	report, err := deliver(t, env.handler(), Record{Request: &Request{Action: ActionPlan, InstanceID: event.InstanceID}})
	require.NoError(t, err)
	require.Equal(t, StatusPlanned, report.Status)
	require.Empty(t, report.Group)
	require.Zero(t, report.Plan.Deadline.HeartbeatTimeoutSeconds)
	require.Zero(t, report.Plan.Deadline.GlobalTimeoutSeconds)
}

func TestManualDrain_InstanceInService_NeedsPermission(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		byHand := func(env *testEnv, allow bool) Report {
			env.node.Add(web("web"), 0)
			h := env.handler()
			h.Policy.AllowManualDrain = allow
			request := Request{Action: ActionDrain, InstanceID: event.InstanceID}
			h.Parse = func([]byte) Delivery { return Delivery{Records: []Record{{Request: &request}}} }
			report, err := invoke(t, h)
			require.NoError(t, err)
			return report
		}
		waiting := newTestEnv()
		require.Equal(t, StatusDrained, byHand(waiting, false).Status)
		require.Equal(t, []Result{Continue}, waiting.completed)

		inService := newTestEnv()
		inService.state = "InService"
		require.Equal(t, StatusRejected, byHand(inService, false).Status)
		require.Empty(t, inService.effects())

		allowed := newTestEnv()
		allowed.state = "InService"
		require.Equal(t, StatusDrained, byHand(allowed, true).Status)
		require.Contains(t, allowed.effects(), "evict app/web")
		require.Empty(t, allowed.completed, "no action waits")
		require.Empty(t, allowed.cordonedFor, "a sweep leaves its node cordoned")
		require.Equal(t, "quiesce", waiting.cordonedFor)
	})
}
