package drain_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
	"quiesce/test/parts/bubble"
)

// Nothing stops the pod: a wait for it would last until the deadline and gain nothing.
func TestKubelet_Unreachable_PodNotAwaited(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Hour), time.Hour)
		time.AfterFunc(5*s, func() { node.SetUnreachable(true) })
		began := time.Now()
		report, _ := drainWithin(t, 10*time.Minute, node)
		require.Equal(t, 20*s, time.Since(began), "15 s later")
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Equal(t, drain.Evict, report.Pods[0].Verdict)
		require.Contains(t, report.Pods[0].Reason, "kubelet unreachable, cannot stop")
		require.NotZero(t, report.Pods[0].EvictedAt)
	})
}

// After an outage of the control plane every kubelet counts as unreachable until its next heartbeat.
func TestKubelet_UnreachableForAMoment_PodsAwaited(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Minute), 39*s)
		time.AfterFunc(5*s, func() { node.SetUnreachable(true) })
		time.AfterFunc(19*s, func() { node.SetUnreachable(false) })
		time.AfterFunc(25*s, func() { node.SetUnreachable(true) })
		report, _ := drainWithin(t, 10*time.Minute, node)
		require.Equal(t, drain.Evicted, report.Pods[0].Outcome)
		require.Empty(t, report.Pods[0].Reason)
	})
}

// The same, and the drain starts in that moment.
func TestKubelet_UnreachableAtStartForAMoment_PodsAwaited(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Minute), 39*s).Add(held(graced("held", 30*s)), 0)
		node.SetUnreachable(true)
		time.AfterFunc(3*s, func() { node.SetUnreachable(false); node.Remove("app/held") })
		began := time.Now()
		report, _ := drainer().Drain(within(t, 10*time.Minute), node, drain.Node{Unreachable: true})
		require.Equal(t, 39*s, time.Since(began))
		require.Equal(t, drain.Evicted, report.Pods[1].Outcome)
		require.Zero(t, count(node, "evict app/held"), "a held pod is evicted early only if nothing can stop it")
	})
}

func TestKubelet_UnreachableFromStart_PodsNotAwaitedLater(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Hour), time.Hour)
		node.SetUnreachable(true)
		began := time.Now()
		report, _ := drainer().Drain(within(t, 10*time.Minute), node, drain.Node{Unreachable: true})
		require.Equal(t, 15*s, time.Since(began))
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
	})
}

func TestKubelet_ReachableAgain_PodsAwaited(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Hour), 2*time.Minute).Add(graced("kept", 30*s), 0)
		node.Fail("app/kept", slices.Repeat([]error{errors.New("etcd is away")}, 12)...)
		time.AfterFunc(5*s, func() { node.SetUnreachable(true) })
		time.AfterFunc(time.Minute, func() { node.SetUnreachable(false) })
		began := time.Now()
		report, _ := drainWithin(t, 10*time.Minute, node)
		require.Equal(t, 2*time.Minute, time.Since(began))
		require.Equal(t, drain.Evicted, report.Pods[1].Outcome)
		require.Empty(t, report.Pods[1].Reason)
		require.Empty(t, report.Remaining())
	})
}

// The report must say that the pod was not stopped, though its object is gone: its volume may still be in use.
func TestKubelet_PodGoneWhileUnreachable_Remained(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Hour), time.Minute).Add(graced("kept", 30*s), 0)
		node.Fail("app/kept", slices.Repeat([]error{errors.New("etcd is away")}, 12)...)
		time.AfterFunc(5*s, func() { node.SetUnreachable(true) })
		report, _ := drainWithin(t, 10*time.Minute, node)
		require.NotZero(t, report.Pods[1].GoneAt)
		require.Equal(t, drain.Remained, report.Pods[1].Outcome)
		require.Contains(t, report.Pods[1].Reason, "kubelet unreachable, cannot stop")
	})
}

func TestKubelet_UnreachableForcedPod_Remained(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", 30*s), time.Hour)
		node.Fail("app/web", slices.Repeat([]error{errors.New("etcd is away")}, 1000)...)
		node.SetUnreachable(true)
		report, n := drainWithin(t, 2*time.Minute, node)
		requireDeletions(t, n, map[string]request{"web": at(30*s, 30*s)})
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Contains(t, report.Pods[0].Reason, "deleted with 30s of its 30s grace; kubelet unreachable, cannot stop")
		require.Empty(t, report.Remaining())
	})
}

// Its PDB or a webhook does not let it go, and nothing could stop it anyway. The drain does not wait for it.
func TestUnstoppable_BlockedOrRefused_NotAwaited(t *testing.T) {
	for name, c := range map[string]struct {
		node   drain.Node
		takes  time.Duration
		reason string
	}{
		"kubelet lost":  {takes: 20 * s, reason: "kubelet unreachable, cannot stop"},
		"instance gone": {node: drain.Node{Gone: true}, reason: "instance gone, cannot stop"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				node := draintest.New().Add(graced("blocked", 30*s, "budget", "b"), 0).Add(graced("denied", 30*s), 0).
					Add(held(graced("held", 30*s, "budget", "b")), 0)
				node.Allow("b", 0)
				node.Deny("app/denied", denial)
				time.AfterFunc(5*s, func() { node.SetUnreachable(true) })
				by := drainer()
				began := time.Now()
				by.Limits = drain.Limits{StartedAt: began, Deadline: began.Add(10 * time.Minute), Force: true}
				n := &timed{Cluster: node, deadline: by.Limits.Deadline}
				report, _ := by.Drain(within(t, 10*time.Minute), n, c.node)
				require.Equal(t, c.takes, time.Since(began))
				require.Empty(t, n.deletions(), "what a PDB protects is not deleted for nothing")
				require.Empty(t, report.Remaining())
				for _, p := range report.Pods {
					require.Equal(t, drain.Remained, p.Outcome, p.Name)
					require.Contains(t, p.Reason, c.reason)
					require.NotEmpty(t, n.evictions(p.Name), "each was tried")
				}
				require.Contains(t, report.Pods[1].Reason, denial)
			})
		})
	}
}

func TestUnstoppable_KubeletReturns_AskedAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("blocked", 30*s, "budget", "b"), s).Add(graced("failing", 30*s), 0)
		node.Allow("b", 0)
		node.Fail("app/failing", slices.Repeat([]error{errors.New("etcd is away")}, 12)...)
		node.SetUnreachable(true)
		time.AfterFunc(40*s, func() { node.SetUnreachable(false); node.Allow("b", 1) })
		report, _ := drainWithin(t, 10*time.Minute, node)
		require.Equal(t, drain.Evicted, report.Pods[0].Outcome)
	})
}

func TestKubelet_InstanceGone_PodsNotAwaited(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Hour), time.Hour)
		began := time.Now()
		report, _ := drainer().Drain(within(t, 10*time.Minute), node, drain.Node{Gone: true})
		require.Zero(t, time.Since(began))
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Contains(t, report.Pods[0].Reason, "instance gone, cannot stop")
	})
}

// The controller of the finalizer is gone or broken, and no container runs: the instance must not wait.
func TestFinalizer_NeverRemoved_PodRemains(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		node := draintest.New().Add(graced("web", time.Hour), time.Hour)
		time.AfterFunc(5*s, func() { node.End("app/web", "example.com/never") })
		began := time.Now()
		report, _ := drainWithin(t, 10*time.Minute, node)
		require.Equal(t, 15*s, time.Since(began))
		require.Equal(t, drain.Remained, report.Pods[0].Outcome)
		require.Equal(t, "its containers have ended; kept by example.com/never", report.Pods[0].Reason)
	})
}

// Every pod of a Job has a finalizer, which is removed a moment after the pod has ended.
func TestFinalizer_RemovedInTime_PodIsEvicted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
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

func TestFinalizer_KeepsForcedPod_StaysForced(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
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
