package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/termination"
)

// The owner of a pod sees neither the node nor the function's log. Each invocation tells, and the owner is told once.
func TestOwners_BlockedAndHeldOverHandOffs_OneEventEach(t *testing.T) {
	p := newQueueFixture(t, 1, 2, 15*time.Second, "drain: {maxDuration: 32s, completionReserve: 2s, nodeJoinTimeout: 1s, volumeDetachTimeout: 1s}")
	p.deploy("web", 1, grace(5), stopping("1s"))
	p.pdb("web", "web", 0)
	target := p.instances[0]
	web := p.podsOn(target)[0]
	p.runPodOn(target, "batch", annotated("karpenter.sh/do-not-disrupt", "true"), stopsAfter("1s"), func(pod *corev1.Pod) {
		pod.Spec.TerminationGracePeriodSeconds = new(int64(4))
	})
	p.runPodOn(target, "free", stopsAfter("1s"))

	p.send(p.terminate(target).Body)
	p.deliver(1)
	p.awaitEmptyQueue()
	p.requireCompletedOnce(target)
	done := p.logLines("event handled")
	require.Len(t, done, 1)
	require.Equal(t, termination.StatusForced, done[0].Report.Status)
	require.GreaterOrEqual(t, done[0].Receives, 2, "invocations")

	blocked, held := p.podEvents(web.Name), p.podEvents("batch")
	require.Len(t, blocked, 1)
	require.Equal(t, "EvictionBlocked", blocked[0].Reason)
	require.Equal(t, web.UID, blocked[0].InvolvedObject.UID)
	require.Regexp(t, "^Node "+target.Node+" is being drained and waits for this pod. PodDisruptionBudget "+p.group+"/web blocks its eviction: "+
		`it can never allow a disruption: wants 1 healthy pods of 1\. If nothing changes, it is deleted at \S+Z, with 5s to stop\. `+
		"To let it leave earlier, raise its replicas, or change the PodDisruptionBudget.$", blocked[0].Message)
	require.Len(t, held, 1)
	require.Equal(t, "EvictionHeld", held[0].Reason)
	require.Contains(t, held[0].Message, "It is annotated karpenter.sh/do-not-disrupt. If nothing changes, it is deleted at ")
	require.Empty(t, p.podEvents("free"))

	created := 0
	for _, f := range p.functions {
		for _, r := range p.requests(f) {
			if r.Resource == "events" && r.Namespace == p.group {
				created++
			}
		}
	}
	require.Greater(t, created, 2, "later invocations tell, too")
	text, err := p.Lab.Kubectl(p.ctx, "get", "events", "--namespace="+p.group, "--field-selector=reason=EvictionBlocked")
	require.NoError(t, err)
	require.Contains(t, text, "pod/"+web.Name)
}

// podEvents returns the function's Kubernetes events about a pod.
func (s *fixture) podEvents(pod string) []corev1.Event {
	s.Helper()
	all, err := s.Lab.Client().CoreV1().Events(s.group).List(s.ctx, metav1.ListOptions{
		FieldSelector: "source=quiesce,involvedObject.kind=Pod,involvedObject.name=" + pod,
	})
	require.NoError(s, err)
	return all.Items
}
