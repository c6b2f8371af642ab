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

// short is for drains that are to meet their deadline soon, with force.
const short = "drain: {maxDuration: 20s, completionReserve: 2s, nodeJoinTimeout: 1s, volumeDetachTimeout: 1s}"

// deletion is a pod's, as the API server was asked for it.
type deletion struct {
	lab.Request
	metav1.DeleteOptions
}

// deletions are those that the scene's function asked for, in order: of the pod of this name, or empty, of any.
func (s *scene) deletions(pod string) (asked []deletion) {
	s.Helper()
	for _, r := range s.requests(s.function) {
		if r.Verb == "delete" && r.Resource == "pods" && (pod == "" || r.Name == pod) {
			d := deletion{Request: r}
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

// prompt is an answer that a function waits for in any case. What takes longer may be asked once more: there is no time left.
const prompt = 300 * time.Millisecond

// isForced: the pod was deleted, and once if that was answered, after its eviction was refused and not before its moment, and its line
// in the report says so.
func (s *scene) isForced(r report, pod corev1.Pod, moment time.Time) {
	s.Helper()
	asked := s.deletions(pod.Name)
	require.NotEmpty(s, asked)
	for n, d := range asked {
		require.Equal(s, pod.UID, *d.Preconditions.UID, "another pod may have the name by then")
		require.True(s, n == 0 || asked[n-1].Done.Sub(asked[n-1].Time) > prompt, "asked again after an answer")
	}
	require.False(s, asked[0].Time.Before(moment), "%s before its moment", moment.Sub(asked[0].Time))
	require.NotEmpty(s, s.evictions(pod.Name))
	require.True(s, s.evictions(pod.Name)[0].Done.Before(asked[0].Time))

	line, own := r.of(s, pod.Name), *pod.Spec.TerminationGracePeriodSeconds
	given := *asked[0].GracePeriodSeconds
	require.Positive(s, given)
	require.LessOrEqual(s, given, own)
	require.LessOrEqual(s, given, int64(r.Deadline.Sub(asked[0].Time)/time.Second)+1, "no more than there is")
	require.Equal(s, drain.Forced, line.Outcome)
	if len(asked) == 1 {
		require.Contains(s, line.Reason, fmt.Sprintf("deadline: deleted with %s of its %s grace; ", inSeconds(given), inSeconds(own)))
	}
	require.Zero(s, line.EvictedAt)
	require.NotZero(s, line.ForcedAt)
}

func inSeconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// half is the moment before which nothing is forced.
func (r report) half(began time.Time) time.Time { return began.Add(r.Deadline.Sub(began) / 2) }

// A budget that never allows a disruption protects its pod to death: the instance goes, and nobody has told the pod. Told in
// time, it stops as it was written to.
func TestAPodThatItsBudgetNeverLetsGoIsToldToStopBeforeTheDeadline(t *testing.T) {
	s := setScene(t, 1, short)
	s.deploy("web", 1, grace(5), stopping("1s"))
	s.budget("web", "web", 0)
	victim := s.instances[0]
	pod := s.podsOn(victim)[0]

	r := s.drain(victim)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusForced, r.Status)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	s.isForced(r, pod, r.Deadline.Add(-5*time.Second))
	require.Contains(t, r.of(t, pod.Name).Reason, "blocked by "+s.group+"/web: can never allow")
	require.Equal(t, []string{s.group + "/web"}, r.of(t, pod.Name).BlockedBy)
	require.Contains(t, s.function.Output(), "pod forced")
	s.completedOnce(victim)

	told := s.told(victim)
	require.Len(t, told, 2)
	require.Contains(t, told[1], "Warning PodsForced forced in ")
	require.Contains(t, told[1], s.group+"/"+pod.Name+" forced: deadline: deleted with ")
	require.Equal(t, []string{s.group + "/" + pod.Name}, s.relatedTo(victim))
	require.Equal(t, []float64{1}, s.measured("PodsForced"))
	require.Equal(t, []float64{1}, s.measured("Drains", "Status", "forced"))
	require.Positive(t, s.measured("PDBBlockedSeconds")[0])
}

// Half of a drain's time belongs to the budgets, whatever a pod's grace: an hour of it must not make a budget worth nothing.
func TestAPodWhoseGraceIsLongerThanTheDrainIsNotForcedInItsFirstHalf(t *testing.T) {
	s := setScene(t, 1, short)
	s.deploy("web", 1, grace(3600), stopping("1s"))
	s.budget("web", "web", 0)
	victim := s.instances[0]
	pod := s.podsOn(victim)[0]
	began := time.Now().Truncate(time.Second) // as events have it

	r := s.drain(victim)
	require.Equal(t, termination.StatusForced, r.Status, r.ErrorMessage)
	s.isForced(r, pod, r.half(began))
}

// Two replicas at once are what the budget was made against.
func TestPodsUnderOneBudgetAreForcedOneAfterTheOther(t *testing.T) {
	s := setScene(t, 1, "drain: {maxDuration: 30s, completionReserve: 2s, nodeJoinTimeout: 1s, volumeDetachTimeout: 1s}")
	s.deploy("web", 2, grace(5), stopping("2s"))
	s.budget("web", "web", 0)
	victim := s.instances[0]
	pods := s.podsOn(victim)

	r := s.drain(victim)
	require.Equal(t, termination.StatusForced, r.Status, r.ErrorMessage)
	for _, pod := range pods {
		s.isForced(r, pod, r.Deadline.Add(-10*time.Second))
	}
	asked := s.deletions("")
	first := r.of(t, asked[0].Name)
	next := slices.IndexFunc(asked, func(d deletion) bool { return d.Name != first.Name })
	require.True(t, !first.GoneAt.IsZero() && !first.GoneAt.After(asked[next].Time) || !asked[next].Time.Before(r.Deadline.Add(-5*time.Second)),
		"gone at %v, the next deleted at %v, deadline %v", first.GoneAt, asked[next].Time, r.Deadline)
}

// Some would rather lose a pod than overrun a budget. They have to be told which one it was.
func TestWhereThePolicyIsToLeaveNothingIsDeleted(t *testing.T) {
	s := setScene(t, 1, shortAndLenient)
	s.deploy("web", 1, grace(2))
	s.budget("web", "web", 0)
	victim := s.instances[0]
	pod := s.podsOn(victim)[0]
	s.podOn(victim, "batch", annotated("karpenter.sh/do-not-disrupt", "true"))

	r := s.drain(victim)
	require.Equal(t, termination.StatusPartial, r.Status, r.ErrorMessage)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	for name, reason := range map[string]string{pod.Name: "blocked by " + s.group + "/web", "batch": "annotated karpenter.sh/do-not-disrupt"} {
		require.Equal(t, drain.Remained, r.of(t, name).Outcome)
		require.Contains(t, r.of(t, name).Reason, reason)
		require.Contains(t, r.of(t, name).Reason, "the deadline came")
	}
	require.Empty(t, s.deletions(""))
	require.Len(t, s.podsOn(victim), 2)
	s.completedOnce(victim)
}

// Who asks that a job is not disturbed does not ask that it dies without a word.
func TestHeldPodsAreToldToStopWhenTimeRunsOut(t *testing.T) {
	s := setScene(t, 1, short)
	victim := s.instances[0]
	undisturbed := func(p *corev1.Pod) {
		annotated("karpenter.sh/do-not-disrupt", "true")(p)
		p.Spec.TerminationGracePeriodSeconds = new(int64(8))
	}
	s.podOn(victim, "free", undisturbed, stopsAfter("1s"))
	s.podOn(victim, "kept", undisturbed, stopsAfter("1s"))
	kept := s.podsOn(victim)[1]
	s.denyEvictions("kept", 1000, "it has not made its checkpoint")

	r := s.drain(victim)
	require.Equal(t, termination.StatusForced, r.Status, r.ErrorMessage)
	moment := r.Deadline.Add(-8 * time.Second)
	for _, name := range []string{"free", "kept"} {
		require.Equal(t, drain.Hold, r.of(t, name).Verdict)
		require.Contains(t, r.of(t, name).Reason, "annotated karpenter.sh/do-not-disrupt")
		require.False(t, s.evictions(name)[0].Time.Before(moment))
	}
	s.isForced(r, kept, moment)
	require.Contains(t, r.of(t, "kept").Reason, "it has not made its checkpoint")
}

// An order of leaving is worth something while there is time. Pods that nobody has tried to evict would be left for it.
func TestAPhaseThatIsStuckKeepsNoPodFromLeavingInTime(t *testing.T) {
	s := setScene(t, 1, short, `
phases:
  - {name: poolers, match: {labelSelector: app.kubernetes.io/name=pooler}, timeout: 1h}
  - {name: workloads}
`)
	s.deploy("pooler", 1, grace(4), stopping("1s"), func(d *appsv1.Deployment) {
		d.Spec.Template.Labels["app.kubernetes.io/name"] = "pooler"
	})
	s.budget("pooler", "pooler", 0)
	victim := s.instances[0]
	pooler := s.podsOn(victim)[0]
	s.podOn(victim, "worker", stopsAfter("1s"), func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(4)) })

	r := s.drain(victim)
	require.Equal(t, termination.StatusForced, r.Status, r.ErrorMessage)
	s.isForced(r, pooler, r.Deadline.Add(-4*time.Second))
	require.Equal(t, drain.Evicted, r.of(t, "worker").Outcome)
	require.False(t, r.of(t, "worker").EvictedAt.Before(r.Deadline.Add(-9*time.Second)))
	require.Len(t, r.Phases, 2)
}

// What holds the pod's object is gone or broken, and nothing runs in it any more: nobody is served by half an hour of waiting.
func TestAPodThatHasEndedAndIsKeptByAFinalizerIsNotWaitedFor(t *testing.T) {
	s := setScene(t, 1)
	victim := s.instances[0]
	s.podOn(victim, "kept", func(p *corev1.Pod) { p.Finalizers = []string{"quiesce.test/never"} })
	t.Cleanup(func() { s.removeFinalizers("kept") })
	end := s.begin(victim)
	s.until("it is evicted", func() (bool, error) { return len(s.evictions("kept")) > 0, nil })
	s.hasEnded("kept")

	r := end()
	require.Equal(t, termination.StatusPartial, r.Status, r.ErrorMessage)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	require.Less(t, r.FinishedAt, r.Deadline.Add(-time.Minute))
	line := r.of(t, "kept")
	require.Equal(t, drain.Remained, line.Outcome)
	require.Equal(t, "its containers have ended; kept by quiesce.test/never", line.Reason)
	require.NotZero(t, line.EvictedAt)
	require.Len(t, s.evictions("kept"), 1)
}

// hasEnded has the API say of a pod what its kubelet would.
func (s *scene) hasEnded(pod string) {
	s.Helper()
	status := []byte(`{"status":{"phase":"Succeeded"}}`)
	_, err := s.Lab.Client().CoreV1().Pods(s.group).Patch(s.ctx, pod, "application/merge-patch+json", status, metav1.PatchOptions{}, "status")
	require.NoError(s, err)
}

// A machine may die while it is drained. Nobody stops its pods any more; who waits for them waits for the whole deadline.
func TestANodeThatIsLostWhileItIsDrainedIsNotWaitedFor(t *testing.T) {
	for name, lose := range map[string]func(*scene, env.Instance) error{
		"kubelet": func(s *scene, i env.Instance) error { return s.Lab.StopKubelet(s.ctx, i.Node) },
		"node":    func(s *scene, i env.Instance) error { return s.Lab.RemoveNode(s.ctx, i.Node) },
	} {
		t.Run(name, func(t *testing.T) {
			s := setScene(t, 1)
			victim := s.instances[0]
			s.podOn(victim, "slow", stopsAfter("3600s"), func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(3600)) })
			end := s.begin(victim)
			s.until("it is evicted", func() (bool, error) { return len(s.evictions("slow")) > 0, nil })
			require.NoError(t, lose(s, victim))

			r := end()
			require.Equal(t, termination.StatusPartial, r.Status, r.ErrorMessage)
			require.Equal(t, termination.Continue, r.LifecycleResult)
			require.Less(t, r.FinishedAt, r.Deadline.Add(-time.Minute))
			line := r.of(t, "slow")
			require.Equal(t, drain.Remained, line.Outcome)
			require.Contains(t, line.Reason, "kubelet is unreachable")
			require.Contains(t, s.function.Output(), "kubelet unreachable")
			require.NotZero(t, line.EvictedAt)
			s.completedOnce(victim)
		})
	}
}
