package drain_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
)

// Nobody there stops the pod: to wait for it costs the whole deadline and saves nothing.
func TestAPodIsNotWaitedForOnceItsKubeletIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Hour), time.Hour)
		time.AfterFunc(5*s, func() { node.Lose(true) })
		began := time.Now()
		report, _ := drainWithin(t, 10*time.Minute, node)
		require.Equal(t, 20*s, time.Since(began), "15 s of patience")
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Equal(t, drain.Evict, report.Pods[0].Verdict)
		require.Contains(t, report.Pods[0].Reason, "kubelet unreachable, cannot stop")
		require.NotZero(t, report.Pods[0].EvictedAt)
	})
}

// After an outage of the control plane every kubelet looks lost until it is heard of.
func TestAKubeletThatIsLostForAMomentIsNotGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Minute), 39*s)
		time.AfterFunc(5*s, func() { node.Lose(true) })
		time.AfterFunc(19*s, func() { node.Lose(false) })
		time.AfterFunc(25*s, func() { node.Lose(true) })
		report, _ := drainWithin(t, 10*time.Minute, node)
		require.Equal(t, drain.Evicted, report.Pods[0].Outcome)
		require.Empty(t, report.Pods[0].Reason)
	})
}

func TestANodeThatComesBackIsWaitedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Hour), 2*time.Minute).Add(graced("kept", 30*s, "budget", "b"), 0)
		node.Allow("b", 0)
		time.AfterFunc(5*s, func() { node.Lose(true) })
		time.AfterFunc(time.Minute, func() { node.Lose(false) })
		time.AfterFunc(90*s, func() { node.Allow("b", 1) })
		began := time.Now()
		report, _ := drainWithin(t, 10*time.Minute, node)
		require.Equal(t, 2*time.Minute, time.Since(began))
		require.Equal(t, drain.Evicted, report.Pods[1].Outcome)
		require.Empty(t, report.Pods[1].Reason)
		require.Empty(t, report.Remaining())
	})
}

// Who looks for a volume has to know that the pod that held it was not stopped, though its object is gone.
func TestAPodThatIsGoneWhileItsKubeletWasLostWasNotStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Hour), time.Minute).Add(graced("kept", 30*s, "budget", "b"), 0)
		node.Allow("b", 0)
		time.AfterFunc(5*s, func() { node.Lose(true) })
		time.AfterFunc(90*s, func() { node.Allow("b", 1) })
		report, _ := drainWithin(t, 10*time.Minute, node)
		require.NotZero(t, report.Pods[1].GoneAt)
		require.Equal(t, drain.Remained, report.Pods[1].Outcome)
		require.Contains(t, report.Pods[1].Reason, "kubelet unreachable, cannot stop")
	})
}

func TestAPodThatWasForcedOnANodeThatIsLostIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 30*s, "budget", "b"), time.Hour)
		node.Allow("b", 0)
		node.Lose(true)
		report, n := drainWithin(t, 2*time.Minute, node)
		requireDeletions(t, n, map[string]request{"web": at(30*s, 30*s)})
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Contains(t, report.Pods[0].Reason, "deleted with 30s of its 30s grace; kubelet unreachable, cannot stop")
		require.Empty(t, report.Remaining())
	})
}

func TestNobodyIsWaitedForOnAnInstanceThatIsGoneThoughItsKubeletIsNotMissedYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Hour), time.Hour)
		began := time.Now()
		report, _ := drainer().Drain(within(t, 10*time.Minute), node, drain.Node{Gone: true})
		require.Zero(t, time.Since(began))
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Contains(t, report.Pods[0].Reason, "instance gone, cannot stop")
	})
}

// What holds the pod is gone or broken, and nothing runs in it: the instance must not be held with it.
func TestAPodThatAFinalizerKeepsIsLeftLongBeforeTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Hour), time.Hour)
		time.AfterFunc(5*s, func() { node.End("app/web", "example.com/never") })
		began := time.Now()
		report, _ := drainWithin(t, 10*time.Minute, node)
		require.Equal(t, 15*s, time.Since(began))
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Equal(t, "its containers have ended; kept by example.com/never", report.Pods[0].Reason)
	})
}

// Every pod of a Job has a finalizer, which goes a moment after the pod has ended.
func TestAPodWhoseFinalizerGoesInTimeWasEvictedLikeAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Hour), 8*s).Add(graced("slow", time.Hour), 40*s).Add(graced("late", time.Hour), 30*s)
		time.AfterFunc(5*s, func() {
			node.End("app/web", "batch.kubernetes.io/job-tracking")
			node.End("app/late", "example.com/slow")
		})
		report, _ := drainWithin(t, 10*time.Minute, node)
		for _, p := range report.Pods {
			require.Equal(t, drain.Evicted, p.Outcome, "%s: %s", p.Name, p.Reason)
		}
	})
}

func TestAForcedPodThatAFinalizerKeepsIsForced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 30*s, "budget", "b"), time.Hour)
		node.Allow("b", 0)
		time.AfterFunc(95*s, func() { node.End("app/web", "example.com/never") })
		began := time.Now()
		report, _ := drainWithin(t, 2*time.Minute, node)
		require.Equal(t, 105*s, time.Since(began))
		require.Equal(t, drain.Forced, report.Pods[0].Outcome)
		require.Contains(t, report.Pods[0].Reason, "deleted with 30s of its 30s grace; its containers have ended; kept by example.com/never")
	})
}
