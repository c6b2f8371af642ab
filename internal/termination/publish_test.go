package termination

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// fakeMetrics implements Metrics and Archive in memory.
type fakeMetrics struct {
	mu           sync.Mutex
	invocations  []Invocation
	sweeps       []SweepReport
	checks       []CheckReport
	malformed    int
	unhooked     int
	scheduled    []ScheduledCounts
	archived     []Report
	archiveError error         // of Store
	archiveDelay time.Duration // the same
}

func (m *fakeMetrics) Invocation(s Invocation) { m.invocations = append(m.invocations, s) }
func (m *fakeMetrics) Sweep(r SweepReport)     { m.sweeps = append(m.sweeps, r) }
func (m *fakeMetrics) Check(r CheckReport)     { m.checks = append(m.checks, r) }
func (m *fakeMetrics) MalformedEvent()         { m.malformed++ }
func (m *fakeMetrics) UnhookedStop()           { m.unhooked++ }

func (m *fakeMetrics) ScheduledChanges(c ScheduledCounts) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.scheduled = append(m.scheduled, c)
}

func (m *fakeMetrics) Store(ctx context.Context, r Report) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := drain.Sleep(ctx, m.archiveDelay); err != nil {
		return err
	}
	m.archived = append(m.archived, r)
	return m.archiveError
}

// withMetrics returns a handler with metrics and an archive.
func withMetrics(env *testEnv) (*Handler, *fakeMetrics) {
	h, all := env.handler(), &fakeMetrics{}
	h.Metrics, h.Archive = all, all
	return h, all
}

// parseAs makes the handler parse every payload as this record.
func parseAs(h *Handler, r Record) {
	h.Parse = func([]byte) Delivery { return Delivery{Records: []Record{r}} }
}

func TestPublish_Drain_RecordsStartAndEndOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("web-0"), 2*time.Second)
		h, metrics := withMetrics(env)
		report, err := invoke(t, h)
		require.NoError(t, err)

		require.Len(t, env.events, 2)
		require.Equal(t, "Draining", env.events[0].Reason)
		require.Equal(t, "Draining i-0abc1234 of group workers-a: the instance is terminating and waits on hook quiesce. Deadline: "+
			report.Deadline.UTC().Format(time.RFC3339), env.events[0].Message)
		require.Equal(t, NodeEvent{
			Reason: "Drained", Message: "drained in 2s: 1 pods evicted, 0 forced, 0 remain; completed with CONTINUE",
		}, env.events[1])
		require.Len(t, metrics.invocations, 1)
		require.True(t, metrics.invocations[0].Ended)
		require.True(t, metrics.invocations[0].First)
		require.Equal(t, report, metrics.invocations[0].Report)
		require.Equal(t, []Report{report}, metrics.archived)
	})
}

// A rejected event can be of any age. As the age of an event it would hide what the queue's delay is.
func TestPublish_RejectedEvent_AgeNotCounted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.state = ""
		h, metrics := withMetrics(env)
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusRejected, report.Status)
		require.Len(t, metrics.invocations, 1)
		require.False(t, metrics.invocations[0].First)
	})
}

// A drain of two hours takes eight invocations. Each is counted; only the last records the end of the drain.
func TestPublish_HandOff_RecordsNoEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("slow"), 20*time.Minute)
		h, metrics := withMetrics(env)
		began := time.Now()
		again := func(receives int) {
			t.Helper()
			parseAs(h, Record{Receives: receives, Termination: &Termination{
				Group: event.Group, Hook: event.Hook, Token: event.Token, InstanceID: event.InstanceID, Began: began,
			}})
		}
		again(1)
		_, err := invoke(t, h)
		require.ErrorAs(t, err, new(*Incomplete))
		require.Len(t, env.events, 1)
		require.False(t, metrics.invocations[0].Ended)
		require.True(t, metrics.invocations[0].HandedOff())
		require.Len(t, metrics.archived, 1)

		again(2)
		env.cordonedAt = began
		_, err = invoke(t, h)
		require.NoError(t, err)
		require.Len(t, env.events, 2, "the start is recorded once")
		require.Contains(t, env.events[1].Message, "since ")
		require.True(t, metrics.invocations[1].Ended)
		require.False(t, metrics.invocations[1].First)
		require.False(t, metrics.invocations[1].HandedOff())
		require.Len(t, metrics.archived, 2)
	})
}

// Metrics, archive and event come after the completion and the release, and cost no more than three seconds.
func TestPublish_SlowArchive_DelaysNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("web-0"), time.Second)
		env.errors["event"] = []error{errors.New("events is forbidden"), errors.New("events is forbidden")}
		h, metrics := withMetrics(env)
		metrics.archiveDelay, metrics.archiveError = time.Hour, errors.New("NoSuchBucket")
		began := time.Now()
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, []string{"acquire", "cordon node-i-0abc1234", "evict app/web-0", "volumes", "complete t-1 CONTINUE", "release"}, env.effects())
		require.Equal(t, time.Second, report.FinishedAt.Sub(began), "when the action is completed and the Lease released")
		require.Equal(t, time.Second+publishTimeout, time.Since(began))
	})
}

// The end of the invocation's time belongs to the message and the answer.
func TestPublish_NoTimeLeft_IsSkipped(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("slow"), time.Hour)
		h, metrics := withMetrics(env)
		metrics.archiveDelay = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := h.Invoke(ctx, nil)
		require.ErrorAs(t, err, new(*Incomplete))
		end, _ := ctx.Deadline()
		require.GreaterOrEqual(t, time.Until(end), publishReserve)
	})
}

func TestPublish_SkippedOrPlanned_RecordsNoEvent(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h, metrics := withMetrics(env)
		env.heldElsewhere = true
		_, err := invoke(t, h)
		require.NoError(t, err)
		require.Empty(t, metrics.invocations, "the other invocation counts it")
		require.Empty(t, metrics.archived)

		env.heldElsewhere, h.Policy.Shadow = false, true
		_, err = invoke(t, h)
		require.NoError(t, err)
		require.Empty(t, env.events, "shadow mode changes nothing")
		require.Equal(t, StatusPlanned, metrics.invocations[0].Report.Status)
		require.True(t, metrics.invocations[0].Ended)
		require.Len(t, metrics.archived, 1, "plans are archived")

		parseAs(h, Record{Request: &Request{Action: ActionPlan, InstanceID: event.InstanceID}})
		_, err = invoke(t, h)
		require.NoError(t, err)
		require.Len(t, metrics.invocations, 1, "a plan by hand is only answered")
	})
}

// An alarm for an event that came twice would soon be ignored.
func TestHookExpired_ActionOver_OnlyIfItWasAlive(t *testing.T) {
	noAction, throttled := ErrNoActiveAction, errors.New("throttled")
	for name, c := range map[string]struct {
		heartbeats, completions error   // from the first on
		completion              []error // one each, in order
		expired                 bool
	}{
		"nothing fails":                        {},
		"it expires":                           {completions: noAction, expired: true},
		"every heartbeat fails":                {heartbeats: throttled, completions: noAction, expired: true},
		"it was over before":                   {heartbeats: noAction, completions: noAction},
		"the answer to its completion is lost": {completion: []error{throttled, noAction}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				env := newTestEnv()
				env.node.Add(web("web-0"), time.Minute)
				env.errors["complete"] = c.completion
				if c.heartbeats != nil {
					env.failAlways("heartbeat", c.heartbeats)
				}
				if c.completions != nil {
					env.failAlways("complete", c.completions)
				}
				h, metrics := withMetrics(env)
				time.AfterFunc(30*time.Second, func() { env.setState("Terminating:Proceed") })
				_, err := invoke(t, h)
				require.NoError(t, err)
				require.Equal(t, c.expired, metrics.invocations[0].HookExpired)
			})
		})
	}
}

func TestHeartbeats_Failed_AreCounted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("web-0"), 10*time.Minute)
		env.errors["heartbeat"] = []error{errors.New("throttled"), errors.New("throttled")}
		h, metrics := withMetrics(env)
		_, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, 2, metrics.invocations[0].HeartbeatsFailed)
	})
}

func TestMetrics_SweepsAndMalformedEvents_AreCounted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h, metrics := withMetrics(newTestEnv())
		for _, receives := range []int{1, 2} {
			parseAs(h, Record{Malformed: errors.New("no JSON"), Receives: receives})
			_, err := h.Invoke(t.Context(), nil)
			require.ErrorAs(t, err, new(*Malformed))
		}
		require.Equal(t, 1, metrics.malformed, "one event, however often it is delivered")
		require.Empty(t, metrics.archived)

		parseAs(h, Record{Request: &Request{Action: ActionSweep}})
		_, err := h.Invoke(t.Context(), nil)
		require.NoError(t, err)
		require.Len(t, metrics.sweeps, 1)
		require.Equal(t, 1, metrics.sweeps[0].Waiting)
	})
}

func TestEndEvent_Pods_RemainedBeforeForced(t *testing.T) {
	ref := func(name string) *drain.Ref { return &drain.Ref{Namespace: "db", Name: name, UID: name} }
	forced := drain.PodReport{
		Namespace: "db", Name: "forced", UID: "forced", Outcome: drain.Forced, ForcedAt: time.Now(), Reason: "deadline",
	}
	remained := drain.PodReport{Namespace: "db", Name: "remained", UID: "remained", Outcome: drain.Remained, Verdict: drain.Evict, Reason: "finalizers"}
	agent := drain.PodReport{Namespace: "db", Name: "agent", Outcome: drain.Skipped, Verdict: drain.Skip}
	for status, c := range map[Status]struct {
		pods   []drain.PodReport
		reason string
		pod    *drain.Ref
	}{
		StatusDrained: {[]drain.PodReport{agent}, "Drained", nil},
		StatusForced:  {[]drain.PodReport{agent, forced}, "PodsForced", ref("forced")},
		StatusPartial: {[]drain.PodReport{forced, remained, agent}, "PodsRemained", ref("remained")},
		StatusFailed:  {nil, "DrainFailed", nil},
	} {
		env := newTestEnv().handler().newJob(event)
		env.report.Status, env.report.Pods, env.report.Reason = status, c.pods, "deadline reached"
		e := env.endEvent()
		require.Equal(t, c.reason, e.Reason)
		require.Equal(t, c.pod, e.Pod)
		require.Equal(t, status != StatusDrained, e.Warning)
		require.Contains(t, e.Message, "; deadline reached")
		if c.pod != nil {
			require.Contains(t, e.Message, "; db/"+c.pod.Name+" "+c.pod.Name+": ")
		}
		require.NotContains(t, e.Message, "agent")
	}
}

func TestEndEvent_ManyPods_FitsKubernetesLimit(t *testing.T) {
	env := newTestEnv().handler().newJob(event)
	for range 100 {
		env.report.Pods = append(env.report.Pods, drain.PodReport{Namespace: "äöü", Name: "pod", Outcome: drain.Remained, Verdict: drain.Evict})
	}
	message := env.endEvent().Message
	require.LessOrEqual(t, len(message), maxMessageBytes)
	require.Greater(t, len(message), maxMessageBytes-10)
	require.Regexp(t, `…$`, message)
	require.Contains(t, message, "100 remain")
}
