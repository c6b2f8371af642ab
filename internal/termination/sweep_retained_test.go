package termination

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

// retainedEnv has one retained instance in each of two groups, beside one in service.
func retainedEnv() (*testEnv, *Handler) {
	env := newTestEnv()
	env.state = inService
	env.peers = []Instance{{ID: "i-young", Group: "workers-a", State: retained}}
	env.otherGroups = []Group{
		{Name: "workers-b", Instances: []Instance{{ID: "i-old", Group: "workers-b", State: retained}}},
		{Name: "workers-c", Instances: []Instance{{ID: "i-serves", Group: "workers-c", State: inService}}},
	}
	env.ends = map[string]time.Time{"i-young": time.Now().Add(-time.Hour), "i-old": time.Now().Add(-48 * time.Hour)}
	h := env.handler()
	h.Policy.Owns = func(string, map[string]string) bool { return true }
	return env, h
}

// Nothing else in AWS says that such an instance runs and costs until someone acts.
func TestSweep_RetainedInstances_ListedOldestFirst(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := retainedEnv()
		report := sweepOnce(t, h)
		require.Equal(t, []RetainedInstance{
			{InstanceID: "i-old", Group: "workers-b", Since: env.ends["i-old"], AgeSeconds: new(48 * time.Hour.Seconds())},
			{InstanceID: "i-young", Group: "workers-a", Since: env.ends["i-young"], AgeSeconds: new(time.Hour.Seconds())},
		}, report.Retained)
		require.Equal(t, 2, report.RetainedCount())
		age, known := report.OldestRetained()
		require.True(t, known)
		require.Equal(t, 48*time.Hour, age)
		require.ElementsMatch(t, []string{"workers-a", "workers-b"}, env.endsAsked, "only groups that have one are asked about")
	})
}

// A guess would be believed.
func TestSweep_RetainedSinceUnknown_SaysSo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := retainedEnv()
		delete(env.ends, "i-old")
		env.errors["ends"] = []error{errors.New("throttled"), nil} // of either group
		report := sweepOnce(t, h)
		require.Equal(t, "i-old", report.Retained[1].InstanceID, "after those of known age")
		require.Nil(t, report.Retained[1].AgeSeconds)
		require.Zero(t, report.Retained[1].Since)
		require.Equal(t, []string{"throttled"}, report.Errors)

		env.ends = nil
		_, known := sweepOnce(t, h).OldestRetained()
		require.False(t, known)
	})
}

// Instances of warm pools are retained in states of their own.
func TestSweep_ManyRetained_OldestListedRestCounted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := retainedEnv()
		env.state = "Warmed:Terminating:Retained"
		env.otherGroups[0].WarmPool = true // it answers with our instance
		for n := range 30 {
			id := fmt.Sprintf("i-%02d", n)
			env.peers = append(env.peers, Instance{ID: id, Group: "workers-a", State: retained})
			env.ends[id] = time.Now().Add(-time.Duration(n) * time.Minute)
		}
		report := sweepOnce(t, h)
		require.Len(t, report.Retained, maxListedRetained)
		require.Equal(t, 13, report.RetainedOmitted)
		require.Equal(t, 33, report.RetainedCount())
		require.Equal(t, "i-old", report.Retained[0].InstanceID)
		require.Equal(t, "i-young", report.Retained[1].InstanceID)
		require.Equal(t, "i-29", report.Retained[2].InstanceID)
	})
}
