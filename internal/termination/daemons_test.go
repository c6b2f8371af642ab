package termination

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

// unasked is what is not asked of an escort.
type unasked = drain.Escort

// usher is an escort that takes its time to say farewell.
type usher struct {
	unasked
	takes   time.Duration
	world   *world
	leaveBy time.Time
}

func (u *usher) ShutDown(ctx context.Context, p drain.EscortRequest) (drain.EscortResult, error) {
	u.leaveBy = p.EvictBy
	err := pause(ctx, u.takes)
	_ = u.world.do("farewell " + p.Name)
	return drain.EscortResult{Strategy: "shutdown"}, err
}

// withDaemon is a node with a DaemonSet's pooler and a pod that its budget keeps.
func withDaemon(takes time.Duration) (*world, *Handler, *usher) {
	w, h := blocked(2 * time.Second)
	u := &usher{takes: takes, world: w}
	daemon := web("daemon")
	daemon.Controller, daemon.Labels = "DaemonSet", map[string]string{"pooler": "yes"}
	w.node.Add(daemon, time.Second)
	isPooler := func(p drain.Pod) bool { return p.Labels["pooler"] != "" }
	h.Drainer.Phases = []drain.Phase{{Name: "poolers", Match: isPooler, Escort: u}, {Name: "workloads"}}
	h.Policy.Force = false
	return w, h, u
}

func TestPoolersOfDaemonSetsAreSeenOutWhenTheDeadlineEndsTheDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, u := withDaemon(3 * time.Second)
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusPartial, report.Status)
		require.Equal(t, []string{"farewell daemon", "complete t-1 CONTINUE", "release"}, lastOf(w.effects(), 3))
		require.Equal(t, "shutdown", report.Pods[0].Escort.Strategy)
		require.Equal(t, report.Deadline.Add(8*time.Second), u.leaveBy, "time to end what is not done by then")
		require.Equal(t, report.Deadline.Add(3*time.Second), report.FinishedAt)
	})
}

func TestAFarewellDoesNotHoldUpTheCompletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, _ := withDaemon(time.Hour)
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, []Result{Continue}, w.completed)
		require.Equal(t, report.Deadline.Add(daemonShutdownTime), report.FinishedAt)
	})
}

func TestPoolersOfDaemonSetsAreNotSeenOutWhileTheDrainGoesOnInAnotherSlice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, _ := withDaemon(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := h.Invoke(ctx, nil)
		require.ErrorAs(t, err, new(*Incomplete))
		require.NotContains(t, w.effects(), "farewell daemon")
	})
}

func lastOf(all []string, n int) []string { return all[max(0, len(all)-n):] }
