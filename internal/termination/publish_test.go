package termination

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

// watcher is who watches: it notes what it is told, in words and in full.
type watcher struct {
	mu        sync.Mutex
	slices    []Invocation
	sweeps    []SweepReport
	malformed int
	kept      []Report
	failing   error         // of the archive
	slow      time.Duration // likewise
}

func (w *watcher) Invocation(s Invocation) { w.slices = append(w.slices, s) }
func (w *watcher) Sweep(r SweepReport)     { w.sweeps = append(w.sweeps, r) }
func (w *watcher) MalformedEvent()         { w.malformed++ }

func (w *watcher) Store(ctx context.Context, r Report) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := pause(ctx, w.slow); err != nil {
		return err
	}
	w.kept = append(w.kept, r)
	return w.failing
}

// watched is the world's handler with somebody who watches it.
func watched(w *world) (*Handler, *watcher) {
	h, all := w.handler(), &watcher{}
	h.Metrics, h.Archive = all, all
	return h, all
}

// of has the handler be given this record.
func of(h *Handler, r Record) {
	h.Parse = func([]byte) Delivery { return Delivery{Records: []Record{r}} }
}

func TestADrainTellsOfItsBeginningAndItsEndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.node.Add(web("web-0"), 2*time.Second)
		h, seen := watched(w)
		report, err := invoke(t, h)
		require.NoError(t, err)

		require.Len(t, w.told, 2)
		require.Equal(t, "Draining", w.told[0].Reason)
		require.Equal(t, "Draining i-0abc1234 of group workers-a: the instance is terminating and waits on hook quiesce. Deadline: "+
			report.Deadline.UTC().Format(time.RFC3339), w.told[0].Message)
		require.Equal(t, NodeEvent{
			Reason: "Drained", Message: "drained in 2s: 1 pods evicted, 0 forced, 0 remain; completed with CONTINUE",
		}, w.told[1])
		require.Len(t, seen.slices, 1)
		require.True(t, seen.slices[0].Ended)
		require.True(t, seen.slices[0].First)
		require.Equal(t, report, seen.slices[0].Report)
		require.Equal(t, []Report{report}, seen.kept)
	})
}

// Of two hours there are eight slices. Each tells what it did; of the drain only the last one does.
func TestASliceThatHandsOverTellsNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.node.Add(web("slow"), 20*time.Minute)
		h, seen := watched(w)
		began := time.Now()
		again := func(receives int) {
			t.Helper()
			of(h, Record{Receives: receives, Termination: &Termination{
				Group: event.Group, Hook: event.Hook, Token: event.Token, InstanceID: event.InstanceID, Began: began,
			}})
		}
		again(1)
		_, err := invoke(t, h)
		require.ErrorAs(t, err, new(*Incomplete))
		require.Len(t, w.told, 1)
		require.False(t, seen.slices[0].Ended)
		require.True(t, seen.slices[0].HandedOff())
		require.Len(t, seen.kept, 1)

		again(2)
		w.cordoned = began
		_, err = invoke(t, h)
		require.NoError(t, err)
		require.Len(t, w.told, 2, "the beginning is told once")
		require.Contains(t, w.told[1].Message, "since ")
		require.True(t, seen.slices[1].Ended)
		require.False(t, seen.slices[1].First)
		require.False(t, seen.slices[1].HandedOff())
		require.Len(t, seen.kept, 2)
	})
}

// What is told is told when nobody waits for it any more, and who does not listen costs no more than three seconds.
func TestNothingWaitsForThoseWhoWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.node.Add(web("web-0"), time.Second)
		w.faults["tell"] = []error{errors.New("events is forbidden"), errors.New("events is forbidden")}
		h, seen := watched(w)
		seen.slow, seen.failing = time.Hour, errors.New("NoSuchBucket")
		began := time.Now()
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, []string{"own", "cordon node-i-0abc1234", "evict app/web-0", "complete t-1 CONTINUE", "release"}, w.effects())
		require.Equal(t, time.Second, report.FinishedAt.Sub(began), "when the action was completed, and the Lease given back")
		require.Equal(t, time.Second+publishTimeout, time.Since(began))
	})
}

// The end of the invocation's time belongs to the message and the answer.
func TestASliceWithoutTimeTellsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.node.Add(web("slow"), time.Hour)
		h, seen := watched(w)
		seen.slow = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := h.Invoke(ctx, nil)
		require.ErrorAs(t, err, new(*Incomplete))
		end, _ := ctx.Deadline()
		require.GreaterOrEqual(t, time.Until(end), publishReserve)
	})
}

func TestWhatWasSkippedOrOnlyPlannedTellsNoStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		h, seen := watched(w)
		w.leased = true
		_, err := invoke(t, h)
		require.NoError(t, err)
		require.Empty(t, seen.slices, "another invocation tells of it")
		require.Empty(t, seen.kept)

		w.leased, h.Policy.Shadow = false, true
		_, err = invoke(t, h)
		require.NoError(t, err)
		require.Empty(t, w.told, "shadow mode changes nothing")
		require.Equal(t, StatusPlanned, seen.slices[0].Report.Status)
		require.True(t, seen.slices[0].Ended)
		require.Len(t, seen.kept, 1, "a plan is read at leisure")

		of(h, Record{Request: &Request{Action: ActionPlan, InstanceID: event.InstanceID}})
		_, err = invoke(t, h)
		require.NoError(t, err)
		require.Len(t, seen.slices, 1, "who asks has the answer")
	})
}

// An alarm that goes off for an event that came twice is soon not looked at any more.
func TestAHookHasExpiredIfItWasAliveAndIsOver(t *testing.T) {
	noAction, throttled := ErrNoActiveAction, errors.New("throttled")
	for name, c := range map[string]struct {
		heartbeats, completions error   // from the first on
		completion              []error // one each, in order
		expired                 bool
	}{
		"all is well":                      {},
		"it expires":                       {completions: noAction, expired: true},
		"no heartbeat came through":        {heartbeats: throttled, completions: noAction, expired: true},
		"it was over before we came":       {heartbeats: noAction, completions: noAction},
		"its completion's answer was lost": {completion: []error{throttled, noAction}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.node.Add(web("web-0"), time.Minute)
				w.faults["complete"] = c.completion
				if c.heartbeats != nil {
					w.failing("heartbeat", c.heartbeats)
				}
				if c.completions != nil {
					w.failing("complete", c.completions)
				}
				h, seen := watched(w)
				time.AfterFunc(30*time.Second, func() { w.enter("Terminating:Proceed") })
				_, err := invoke(t, h)
				require.NoError(t, err)
				require.Equal(t, c.expired, seen.slices[0].HookExpired)
			})
		})
	}
}

func TestFailedHeartbeatsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.node.Add(web("web-0"), 10*time.Minute)
		w.faults["heartbeat"] = []error{errors.New("throttled"), errors.New("throttled")}
		h, seen := watched(w)
		_, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, 2, seen.slices[0].HeartbeatsFailed)
	})
}

func TestSweepsAndMalformedEventsAreToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, seen := watched(newWorld())
		for _, receives := range []int{1, 2} {
			of(h, Record{Malformed: errors.New("no JSON"), Receives: receives})
			_, err := h.Invoke(t.Context(), nil)
			require.ErrorAs(t, err, new(*Malformed))
		}
		require.Equal(t, 1, seen.malformed, "one event, however often it comes")
		require.Empty(t, seen.kept)

		of(h, Record{Request: &Request{Action: ActionSweep}})
		_, err := h.Invoke(t.Context(), nil)
		require.NoError(t, err)
		require.Len(t, seen.sweeps, 1)
		require.Equal(t, 1, seen.sweeps[0].Waiting)
	})
}

func TestAnEventNamesThosePodsFirstThatHadItWorst(t *testing.T) {
	ref := func(name string) *drain.Ref { return &drain.Ref{Namespace: "db", Name: name, UID: name} }
	forced := drain.PodReport{
		Namespace: "db", Name: "forced", UID: "forced", Outcome: drain.Forced, ForcedAt: time.Now(), Reason: "deadline",
	}
	left := drain.PodReport{Namespace: "db", Name: "left", UID: "left", Outcome: drain.Remained, Verdict: drain.Evict, Reason: "finalizers"}
	agent := drain.PodReport{Namespace: "db", Name: "agent", Outcome: drain.Remained, Verdict: drain.Skip}
	for status, c := range map[Status]struct {
		pods   []drain.PodReport
		reason string
		pod    *drain.Ref
	}{
		StatusDrained: {[]drain.PodReport{agent}, "Drained", nil},
		StatusForced:  {[]drain.PodReport{agent, forced}, "PodsForced", ref("forced")},
		StatusPartial: {[]drain.PodReport{forced, left, agent}, "PodsRemained", ref("left")},
		StatusFailed:  {nil, "DrainFailed", nil},
	} {
		w := newWorld().handler().newJob(event)
		w.report.Status, w.report.Pods, w.report.Reason = status, c.pods, "deadline reached"
		e := w.endEvent()
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

func TestAnEventIsNoLongerThanKubernetesTakes(t *testing.T) {
	w := newWorld().handler().newJob(event)
	for range 100 {
		w.report.Pods = append(w.report.Pods, drain.PodReport{Namespace: "äöü", Name: "pod", Outcome: drain.Remained, Verdict: drain.Evict})
	}
	message := w.endEvent().Message
	require.LessOrEqual(t, len(message), maxMessageBytes)
	require.Greater(t, len(message), maxMessageBytes-10)
	require.Regexp(t, ` \.\.\.$`, message)
	require.Contains(t, message, "100 remain")
}
