package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

// shortDeadline lets a drain reach its deadline soon, with force.
const shortDeadline = "drain: {maxDuration: 20s, completionReserve: 2s, nodeJoinTimeout: 1s, volumeDetachTimeout: 1s}"

// podDeletion is a request to delete a pod, with its options.
type podDeletion struct {
	lab.Request
	metav1.DeleteOptions
}

// deletions returns the function's requests to delete the named pod, in order; for an empty name, to delete any pod.
func (s *fixture) deletions(pod string) (asked []podDeletion) {
	s.Helper()
	for _, r := range s.requests(s.function) {
		if r.Verb == "delete" && r.Resource == "pods" && (pod == "" || r.Name == pod) {
			d := podDeletion{Request: r}
			require.NoError(s, json.Unmarshal(r.Body, &d.DeleteOptions), "%s", r.Body)
			asked = append(asked, d)
		}
	}
	return asked
}

func grace(seconds int64) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Template.Spec.TerminationGracePeriodSeconds = &seconds }
}

func stopping(after string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations = map[string]string{lab.StopAfter: after}
	}
}

// askingTakes is how long before its moment a pod may be asked, at most: few pods share the moment, and asking takes time too.
const askingTakes = 5 * time.Second

// promptAnswer is how long the function always waits for an answer. A slower request may be repeated: no time is left.
const promptAnswer = 300 * time.Millisecond

// requireForced requires that the pod was deleted after its eviction was refused, not before the given moment, and only once if
// the request was answered. The pod's line in the report must say so.
func (s *fixture) requireForced(r report, pod corev1.Pod, moment time.Time) {
	s.Helper()
	asked := s.deletions(pod.Name)
	require.NotEmpty(s, asked)
	for n, d := range asked {
		require.Equal(s, pod.UID, *d.Preconditions.UID, "another pod may have the name by then")
		require.True(s, n == 0 || asked[n-1].Done.Sub(asked[n-1].Time) > promptAnswer, "deleted again after an answer")
	}
	require.False(s, asked[0].Time.Before(moment.Add(-askingTakes)), "%s before its moment", moment.Sub(asked[0].Time))
	require.NotEmpty(s, s.evictions(pod.Name))
	require.True(s, s.evictions(pod.Name)[0].Done.Before(asked[0].Time))

	line, own := r.pod(s, pod.Name), *pod.Spec.TerminationGracePeriodSeconds
	given := *asked[0].GracePeriodSeconds
	require.Positive(s, given)
	require.LessOrEqual(s, given, own)
	require.LessOrEqual(s, given, int64(r.Deadline.Sub(s.graceChosen(asked[0]))/time.Second)+1, "no more than the remaining time")
	require.Equal(s, drain.Forced, line.Outcome)
	if len(asked) == 1 {
		require.Contains(s, line.Reason, fmt.Sprintf("deadline: deleted with %s of its %s grace; ", inSeconds(given), inSeconds(own)))
	}
	require.Zero(s, line.EvictedAt)
	require.NotZero(s, line.ForcedAt)
}

// graceChosen returns a moment just after the function chose this deletion's grace period. The function marks the pod as disrupted
// in between, with a request of its own.
func (s *fixture) graceChosen(d podDeletion) time.Time {
	s.Helper()
	chosen := d.Time
	for _, r := range s.requests(s.function) {
		if r.Resource == "pods" && r.Subresource == "status" && r.Name == d.Name && r.Time.Before(d.Time) {
			chosen = r.Time
		}
	}
	return chosen
}

func inSeconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// halfTime returns the moment before which no pod is forced.
func (r report) halfTime(began time.Time) time.Time { return began.Add(r.Deadline.Sub(began) / 2) }

// A PDB that never allows a disruption would let its pod be killed with the instance, without SIGTERM. Deleted in time, the pod
// stops gracefully.
func TestForce_PDBNeverAllows_DeletedWithGraceBeforeDeadline(t *testing.T) {
	s := newFixture(t, 1, shortDeadline)
	s.deploy("web", 1, grace(5), stopping("1s"))
	s.pdb("web", "web", 0)
	target := s.instances[0]
	pod := s.podsOn(target)[0]

	r := s.drain(target)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusForced, r.Status)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	s.requireForced(r, pod, r.Deadline.Add(-5*time.Second))
	require.Contains(t, r.pod(t, pod.Name).Reason, "blocked by "+s.group+"/web: can never allow")
	require.Equal(t, []string{s.group + "/web"}, r.pod(t, pod.Name).BlockedBy)
	require.Contains(t, s.function.Output(), "pod forced")
	s.requireCompletedOnce(target)

	events := s.nodeEvents(target)
	require.Len(t, events, 2)
	require.Contains(t, events[1], "Warning PodsForced forced in ")
	require.Contains(t, events[1], s.group+"/"+pod.Name+" forced: deadline: deleted with ")
	require.Equal(t, []string{s.group + "/" + pod.Name}, s.relatedPods(target))
	require.Equal(t, []float64{1}, s.metric("PodsForced"))
	require.Equal(t, []float64{1}, s.metric("Drains", "Status", "forced"))
	require.Positive(t, s.metric("PDBBlockedSeconds")[0])
}

// PDBs decide alone for half of the drain's time, whatever a pod's grace period. A grace of an hour must not make a PDB
// worthless.
func TestForce_GraceLongerThanDrain_NotInFirstHalf(t *testing.T) {
	s := newFixture(t, 1, shortDeadline)
	s.deploy("web", 1, grace(3600), stopping("1s"))
	s.pdb("web", "web", 0)
	target := s.instances[0]
	pod := s.podsOn(target)[0]
	began := time.Now().Truncate(time.Second) // events have whole seconds

	r := s.drain(target)
	require.Equal(t, termination.StatusForced, r.Status, r.ErrorMessage)
	s.requireForced(r, pod, r.halfTime(began).Add(askingTakes))
}

// The PDB exists to prevent the loss of two replicas at once.
func TestForce_TwoPodsOfOnePDB_OneAfterTheOther(t *testing.T) {
	s := newFixture(t, 1, "drain: {maxDuration: 30s, completionReserve: 2s, nodeJoinTimeout: 1s, volumeDetachTimeout: 1s}")
	s.deploy("web", 2, grace(5), stopping("2s"))
	s.pdb("web", "web", 0)
	target := s.instances[0]
	pods := s.podsOn(target)

	r := s.drain(target)
	require.Equal(t, termination.StatusForced, r.Status, r.ErrorMessage)
	for _, pod := range pods {
		s.requireForced(r, pod, r.Deadline.Add(-10*time.Second))
	}
	asked := s.deletions("")
	first := r.pod(t, asked[0].Name)
	next := slices.IndexFunc(asked, func(d podDeletion) bool { return d.Name != first.Name })
	require.True(t, !first.GoneAt.IsZero() && !first.GoneAt.After(asked[next].Time) || !asked[next].Time.Before(r.Deadline.Add(-5*time.Second)),
		"gone at %v, the next deleted at %v, deadline %v", first.GoneAt, asked[next].Time, r.Deadline)
}

// Some operators prefer to lose a pod rather than to break a PDB. The report must name the pod.
func TestDeadline_PolicyKeep_NothingDeleted(t *testing.T) {
	s := newFixture(t, 1, shortDeadlineKeep)
	s.deploy("web", 1, grace(2))
	s.pdb("web", "web", 0)
	target := s.instances[0]
	pod := s.podsOn(target)[0]
	s.runPodOn(target, "batch", annotated("karpenter.sh/do-not-disrupt", "true"))

	r := s.drain(target)
	require.Equal(t, termination.StatusPartial, r.Status, r.ErrorMessage)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	for name, reason := range map[string]string{pod.Name: "blocked by " + s.group + "/web", "batch": "annotated karpenter.sh/do-not-disrupt"} {
		require.Equal(t, drain.Remained, r.pod(t, name).Outcome)
		require.Contains(t, r.pod(t, name).Reason, reason)
		require.Contains(t, r.pod(t, name).Reason, "deadline reached")
	}
	require.Empty(t, s.deletions(""))
	require.Len(t, s.podsOn(target), 2)
	s.requireCompletedOnce(target)
}

// The owner of a held job asks that it is not disturbed. Without a signal before the instance goes, the job would still be
// killed.
func TestForce_HeldPods_EvictedOrDeletedBeforeDeadline(t *testing.T) {
	s := newFixture(t, 1, shortDeadline)
	target := s.instances[0]
	undisturbed := func(p *corev1.Pod) {
		annotated("karpenter.sh/do-not-disrupt", "true")(p)
		p.Spec.TerminationGracePeriodSeconds = new(int64(8))
	}
	s.runPodOn(target, "free", undisturbed, stopsAfter("1s"))
	s.runPodOn(target, "kept", undisturbed, stopsAfter("1s"))
	kept := s.podsOn(target)[1]
	s.denyEvictions("kept", 1000, "it has not made its checkpoint")

	r := s.drain(target)
	require.Equal(t, termination.StatusForced, r.Status, r.ErrorMessage)
	moment := r.Deadline.Add(-8 * time.Second)
	for _, name := range []string{"free", "kept"} {
		require.Equal(t, drain.Hold, r.pod(t, name).Verdict)
		require.Contains(t, r.pod(t, name).Reason, "annotated karpenter.sh/do-not-disrupt")
		require.False(t, s.evictions(name)[0].Time.Before(moment.Add(-askingTakes)))
	}
	s.requireForced(r, kept, moment)
	require.Contains(t, r.pod(t, "kept").Reason, "it has not made its checkpoint")
}

// The order of phases matters only while there is time. Pods of later phases must still be evicted before the deadline.
func TestForce_PhaseBlocked_LaterPhasesEvictedInTime(t *testing.T) {
	s := newFixture(t, 1, shortDeadline, `
phases:
  - {name: poolers, match: {labelSelector: app.kubernetes.io/name=pooler}, timeout: 1h}
  - {name: workloads}
`)
	s.deploy("pooler", 1, grace(4), stopping("1s"), func(d *appsv1.Deployment) {
		d.Spec.Template.Labels["app.kubernetes.io/name"] = "pooler"
	})
	s.pdb("pooler", "pooler", 0)
	target := s.instances[0]
	pooler := s.podsOn(target)[0]
	s.runPodOn(target, "worker", stopsAfter("1s"), func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(4)) })

	r := s.drain(target)
	require.Equal(t, termination.StatusForced, r.Status, r.ErrorMessage)
	s.requireForced(r, pooler, r.Deadline.Add(-4*time.Second))
	require.Equal(t, drain.Evicted, r.pod(t, "worker").Outcome)
	require.False(t, r.pod(t, "worker").EvictedAt.Before(r.Deadline.Add(-9*time.Second)))
	require.Len(t, r.Phases, 2)
}

// The owner of the finalizer is gone or broken, and no container runs any more. Waiting for half an hour helps no one.
func TestDrain_EndedPodKeptByFinalizer_NotWaitedFor(t *testing.T) {
	s := newFixture(t, 1)
	target := s.instances[0]
	s.runPodOn(target, "kept", func(p *corev1.Pod) { p.Finalizers = []string{"quiesce.test/never"} })
	t.Cleanup(func() { s.removeFinalizers("kept") })
	end := s.begin(target)
	s.until("it is evicted", func() (bool, error) { return len(s.evictions("kept")) > 0, nil })
	s.markSucceeded("kept")

	r := end()
	require.Equal(t, termination.StatusPartial, r.Status, r.ErrorMessage)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	require.Less(t, r.FinishedAt, r.Deadline.Add(-time.Minute))
	line := r.pod(t, "kept")
	require.Equal(t, drain.Remained, line.Outcome)
	require.Equal(t, "its containers have ended; kept by quiesce.test/never", line.Reason)
	require.NotZero(t, line.EvictedAt)
	require.Len(t, s.evictions("kept"), 1)
}

// markSucceeded sets the status that the pod's kubelet would set.
func (s *fixture) markSucceeded(pod string) {
	s.Helper()
	status := []byte(`{"status":{"phase":"Succeeded"}}`)
	_, err := s.Lab.Client().CoreV1().Pods(s.group).Patch(s.ctx, pod, "application/merge-patch+json", status, metav1.PatchOptions{}, "status")
	require.NoError(s, err)
}

// An instance may fail while its node is drained. Nothing stops its pods any more, so waiting would last until the deadline.
func TestDrain_NodeLost_NotWaitedFor(t *testing.T) {
	for name, lose := range map[string]func(*fixture, env.Instance) error{
		"kubelet": func(s *fixture, i env.Instance) error { return s.Lab.StopKubelet(s.ctx, i.Node) },
		"node":    func(s *fixture, i env.Instance) error { return s.Lab.RemoveNode(s.ctx, i.Node) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newFixture(t, 1)
			target := s.instances[0]
			s.runPodOn(target, "slow", stopsAfter("3600s"), func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(3600)) })
			end := s.begin(target)
			s.until("it is evicted", func() (bool, error) { return len(s.evictions("slow")) > 0, nil })
			require.NoError(t, lose(s, target))

			r := end()
			require.Equal(t, termination.StatusPartial, r.Status, r.ErrorMessage)
			require.Equal(t, termination.Continue, r.LifecycleResult)
			require.Less(t, r.FinishedAt, r.Deadline.Add(-time.Minute))
			line := r.pod(t, "slow")
			require.Equal(t, drain.Remained, line.Outcome)
			require.Contains(t, line.Reason, "kubelet unreachable")
			require.Contains(t, s.function.Output(), "kubelet unreachable")
			require.NotZero(t, line.EvictedAt)
			s.requireCompletedOnce(target)
		})
	}
}
