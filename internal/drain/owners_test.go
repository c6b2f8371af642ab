package drain_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
	"quiesce/test/parts/bubble"
)

// told drains the node within this time, and returns what the owners of its pods were told.
func told(t *testing.T, d time.Duration, node *draintest.Cluster) []drain.PodEvent {
	t.Helper()
	by := drainer()
	by.Owners = node
	drainBy(t, by, d, node)
	return node.Events()
}

func TestOwners_EvictionBlocked_ToldAfterAMinute(t *testing.T) {
	for name, c := range map[string]struct {
		roomAfter time.Duration
		drain     time.Duration
		want      []string
	}{
		"room before":             {59 * s, 30 * time.Minute, []string{"evict app/web", "gone app/web"}},
		"room after":              {61 * s, 30 * time.Minute, []string{"tell app/web EvictionBlocked", "evict app/web", "gone app/web"}},
		"room long after":         {10 * time.Minute, 30 * time.Minute, []string{"tell app/web EvictionBlocked", "evict app/web", "gone app/web"}},
		"Spot interruption":       {11 * s, 100 * s, []string{"tell app/web EvictionBlocked", "evict app/web", "gone app/web"}},
		"Spot, room before":       {9 * s, 100 * s, []string{"evict app/web", "gone app/web"}},
		"no room, until deadline": {time.Hour, 30 * time.Minute, []string{"tell app/web EvictionBlocked", "delete app/web 30s", "gone app/web"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				node := draintest.New().Add(graced("web", 30*s, "budget", "b"), 0)
				node.Allow("b", 0)
				timer := time.AfterFunc(c.roomAfter, func() { node.Allow("b", 1) })
				defer timer.Stop()
				told(t, c.drain, node)
				require.Equal(t, c.want, slices.DeleteFunc(node.Log(), func(line string) bool { return line == "block app/web" }))
			})
		})
	}
}

func TestOwners_UnblockedAndBlockedAgain_ToldOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 30*s, "budget", "b"), 0)
		node.Allow("b", 0)
		time.AfterFunc(2*time.Minute, func() { // there is room, and the request fails
			node.Fail("app/web", fmt.Errorf("timeout"), &drain.Throttled{})
			node.Allow("b", 1)
		})
		time.AfterFunc(2*time.Minute+time.Millisecond, func() { node.Allow("b", 0) })
		require.Len(t, told(t, 30*time.Minute, node), 1)
		require.Contains(t, node.Log(), "fail app/web: timeout")
	})
}

// A drain resumes when a Spot interruption shortens its deadline.
func TestOwners_DrainResumes_ToldOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 30*s, "budget", "b"), 0).Add(held(graced("batch", 30*s)), 0)
		node.Allow("b", 0)
		by := drainer()
		by.Owners = node
		by.Limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(30 * time.Minute), Force: true}
		_, state := by.Drain(within(t, 2*time.Minute), node, drain.Node{})
		require.Len(t, node.Events(), 2)
		by.Resume(within(t, 2*time.Minute), node, drain.Node{}, state)
		require.Len(t, node.Events(), 2)
	})
}

// The events of two invocations are the same, so that the API server keeps one.
func TestOwners_HandOff_SameEventAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 30*s, "budget", "b"), 0).Add(held(graced("batch", 30*s)), 0)
		node.Allow("b", 0)
		by := drainer()
		by.Owners = node
		by.Limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(30 * time.Minute), Force: true}
		for range 2 {
			by.Drain(within(t, 2*time.Minute), node, drain.Node{})
		}
		events := node.Events()
		require.Len(t, events, 4)
		require.ElementsMatch(t, events[:2], events[2:])
	})
}

func TestOwners_PodHeld_ToldAtOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		batch := held(graced("batch", 30*s))
		batch.Annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] = "false"
		free := graced("free", 30*s)
		free.Annotations = map[string]string{"quiesce/drain": "false"}
		node := draintest.New().Add(batch, 0).Add(free, 0)
		began := time.Now()
		events := told(t, 30*time.Minute, node)
		require.Len(t, events, 1)
		require.Equal(t, "tell app/batch EvictionHeld", node.Log()[0])
		require.Equal(t, drain.PodEvent{
			Pod: batch.Ref, Reason: drain.EvictionHeld, Began: began,
			Message: "Node  is being drained and waits for this pod. It is annotated cluster-autoscaler.kubernetes.io/safe-to-evict=false, " +
				"annotated karpenter.sh/do-not-disrupt. If nothing changes, it is deleted at " + began.Add(30*time.Minute-32*s).UTC().Format(time.RFC3339) +
				", with 30s to stop. To let it leave earlier, remove the annotation.",
		}, events[0])
	})
}

func TestOwners_EvictionRefused_ToldWithTheAnswer(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 30*s), 0)
		node.Deny("app/web", denial+"\x1b[2J"+strings.Repeat("é\xff", 1000))
		time.AfterFunc(30*s, func() { // then the webhook does not answer
			node.Deny("app/web", "")
			node.Fail("app/web", slices.Repeat([]error{errors.New("timeout")}, 1000)...)
		})
		events := told(t, 30*time.Minute, node)
		require.Len(t, events, 1)
		require.Equal(t, drain.EvictionRefused, events[0].Reason)
		require.Contains(t, events[0].Message, `webhook, or what it objects to. The answer: refused: `+denial+" [2J")
		require.LessOrEqual(t, len(events[0].Message), 1024)
		require.True(t, strings.HasSuffix(events[0].Message, "…"))
	})
}

func TestOwners_DeadlineKeeps_ToldThatItIsKilled(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 30*s, "budget", "b"), 0).Add(held(graced("batch", 30*s)), 0)
		node.Allow("b", 0)
		by := drainer()
		by.Owners = node
		by.Limits = drain.Limits{StartedAt: time.Now(), Deadline: time.Now().Add(10 * time.Minute)}
		by.Drain(within(t, 10*time.Minute), node, drain.Node{Name: "node-a"})
		require.Len(t, node.Events(), 2)
		for _, e := range node.Events() {
			require.Contains(t, e.Message, "Node node-a is being drained")
			require.Contains(t, e.Message, "it is not deleted: it is killed with its instance, after "+by.Limits.Deadline.UTC().Format(time.RFC3339))
		}
	})
}

// An owner of thousands of pods must not load the API server with events.
func TestOwners_ManyPodsHeld_BoundedNumber(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New()
		for i := range 300 {
			node.Add(held(graced(fmt.Sprint("batch-", i), s)), 0)
		}
		by, log := drainer(), &bytes.Buffer{}
		by.Owners, by.Log = node, slog.New(slog.NewTextHandler(log, nil))
		drainBy(t, by, 10*time.Minute, node)
		require.Len(t, node.Events(), 100)
		require.Equal(t, 1, strings.Count(log.String(), "not all owners are told"))
	})
}

func TestOwners_NobodyToTell_DrainIsTheSame(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(held(graced("batch", 30*s)), 0)
		report, _ := drainWithin(t, 10*time.Minute, node)
		require.Empty(t, report.Remaining())
		require.Empty(t, node.Events())
	})
}

// A plan, such as that of shadow mode, tells nobody.
func TestOwners_Plan_NotTold(t *testing.T) {
	node := draintest.New().Add(held(graced("batch", 30*s)), 0)
	by := drainer()
	by.Owners = node
	by.Plan(node.Pods(), drain.Node{})
	require.Empty(t, node.Events())
}
