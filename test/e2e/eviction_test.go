package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/parts/lab"
)

// Evicting one of these pods would do harm or never end. A drain must not wait for them either.
func TestEvict_PodsToSkip_Remain(t *testing.T) {
	s := newFixture(t, 1)
	node := s.instances[0]
	s.daemonSet("agent")
	s.finishedJob("report")
	s.runPodOn(node, "static", annotated(corev1.MirrorPodAnnotationKey, "checksum"))
	s.runPodOn(node, "opted-out", annotated(drain.OptOutAnnotation, "false"))
	s.runPodOn(node, "web")

	report := s.drain(node)
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.Len(t, report.Pods, 5)
	reasons := map[string]string{}
	for _, pod := range report.Pods {
		require.Equal(t, pod.Verdict == drain.Skip, pod.Outcome == drain.Skipped)
		reasons[s.appOf(pod)] = pod.Reason
	}
	require.Contains(t, reasons["agent"], "DaemonSet")
	require.Contains(t, reasons["report"], "finished")
	require.Contains(t, reasons["static"], "static pod")
	require.Contains(t, reasons["opted-out"], "quiesce/drain=false")
	require.Len(t, s.evictions(""), 1)
	require.Len(t, s.evictions("web"), 1)
}

// Their owners say that an eviction is expensive: a training run of days, for example.
func TestEvict_HeldPods_Remain(t *testing.T) {
	s := newFixture(t, 1, shortDeadlineKeep)
	node := s.instances[0]
	s.runPodOn(node, "unsafe", annotated("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"))
	s.runPodOn(node, "undisrupted", annotated("karpenter.sh/do-not-disrupt", "true"))
	s.runPodOn(node, "web")

	report := s.drain(node)
	require.Equal(t, termination.StatusPartial, report.Status, report.ErrorMessage)
	require.Equal(t, termination.Continue, report.LifecycleResult)
	for _, name := range []string{"unsafe", "undisrupted"} {
		require.Equal(t, drain.Hold, report.pod(t, name).Verdict)
		require.Equal(t, drain.Remained, report.pod(t, name).Outcome)
		require.Empty(t, s.evictions(name))
	}
	require.Equal(t, drain.Evicted, report.pod(t, "web").Outcome)
}

// Webhooks protect databases: they deny evictions until the database has failed over. If a drain took one denial as final,
// exactly those pods would remain.
func TestEvict_WebhookDeniesForAWhile_Delayed(t *testing.T) {
	s := newFixture(t, 1)
	node := s.instances[0]
	s.runPodOn(node, "db")
	const denials = 3
	s.denyEvictions("db", denials, "the primary has not failed over")

	report := s.drain(node)
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.Equal(t, drain.Evicted, report.pod(t, "db").Outcome)
	require.Contains(t, s.function.Output(), "the primary has not failed over")
	asked := s.evictions("db")
	require.Len(t, asked, denials+1)
	for i := range denials {
		require.GreaterOrEqual(t, asked[i+1].Time.Sub(asked[i].Done), 200*time.Millisecond<<i, "each wait is twice the one before")
	}
}

// A StatefulSet recreates its pod under the same name. Evicting the new pod would take a healthy replica from a healthy node.
func TestEvict_NewPodOfSameName_NotEvicted(t *testing.T) {
	s := newFixture(t, 2)
	s.statefulSet("db")
	target := s.hostOf("db")
	first := s.podsOn(target)[0]
	s.runPodOn(target, "slow", stopsAfter("4s")) // the drain continues while the name is in use again
	end := s.begin(target)
	reborn := s.awaitSuccessor(first)

	report := end()
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.Len(t, s.evictions("db-0"), 1)
	require.Equal(t, string(first.UID), report.pod(t, "db-0").UID)
	current, err := s.Lab.Client().CoreV1().Pods(s.group).Get(s.ctx, "db-0", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, reborn.UID, current.UID)
	require.Nil(t, current.DeletionTimestamp)
	require.NotEqual(t, target.Node, current.Spec.NodeName)
}

// Such a pod's replacement lands on the same node at once. A drain that evicts every pod it finds there would never end. One successor
// is asked to leave. The next is deleted because the node is terminated.
func TestEvict_PodReturnsToNode_OneSuccessorAsked(t *testing.T) {
	s := newFixture(t, 1)
	node := s.instances[0]
	s.deploy("stubborn", 1, func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations = map[string]string{lab.StopAfter: "2s"}
		d.Spec.Template.Spec.NodeSelector[corev1.LabelHostname] = node.Node
		d.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	})
	first := s.podsOn(node)[0]

	report := s.drain(node)
	require.Equal(t, termination.StatusPartial, report.Status, report.ErrorMessage)
	require.Len(t, s.evictions(""), 2)
	require.Equal(t, drain.Evicted, report.pod(t, first.Name).Outcome)
	remained := report.RemainedPods()
	require.NotEmpty(t, remained, "each deletion brings another")
	require.Contains(t, remained[0].Reason, "came back: ReplicaSet "+s.group+"/stubborn-")
}

// The owner of the finalizer is gone or broken. The instance must not wait for it.
func TestEvict_FinalizerStays_ReportedAtDeadline(t *testing.T) {
	s := newFixture(t, 1, shortDeadlineKeep)
	node := s.instances[0]
	s.runPodOn(node, "kept", func(p *corev1.Pod) { p.Finalizers = []string{"quiesce.test/never"} })
	t.Cleanup(func() { s.removeFinalizers("kept") })

	report := s.drain(node)
	require.Equal(t, termination.StatusPartial, report.Status, report.ErrorMessage)
	require.Equal(t, termination.Continue, report.LifecycleResult)
	pod := report.pod(t, "kept")
	require.Equal(t, drain.Remained, pod.Outcome)
	require.NotZero(t, pod.EvictedAt)
	require.NotEmpty(t, pod.Reason)
	require.Len(t, s.evictions("kept"), 1)
}

// A pod may be bound at the moment of the cordon, or without the scheduler. It would be killed without SIGTERM.
func TestEvict_PodArrivesDuringDrain_Evicted(t *testing.T) {
	s := newFixture(t, 1)
	node := s.instances[0]
	s.deploy("early", 1)
	s.pdb("early", "early", 0)
	end := s.begin(node)
	s.awaitLogs("eviction blocked") // the drain has started and waits for this PDB
	late := s.createPod("late", pinned(node))
	s.awaitGone("late")
	s.removePDB("early")

	report := end()
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.Equal(t, string(late.UID), report.pod(t, "late").UID)
	require.Equal(t, drain.Evicted, report.pod(t, "late").Outcome)
}
