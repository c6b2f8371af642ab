package e2e

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// ignoresDisruptions is the policy of a Job whose pods may be disrupted as often as the cluster needs it
// (https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy).
var ignoresDisruptions = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
	Action:          batchv1.PodFailurePolicyActionIgnore,
	OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
}}}

// The eviction API marks the pods that it evicts as disrupted. A pod that is deleted past its PDB has no such mark: its Job counts a
// failure of its own, and hours of work are over.
func TestForce_JobIgnoresDisruptions_JobContinues(t *testing.T) {
	s := newFixture(t, 2, shortDeadline)
	s.runningJob("batch", ignoresDisruptions)
	target := s.hostOf("batch")
	pod := s.podsOn(target)[0]
	s.pdbAtLeast("batch", 1)
	end := s.begin(target)
	s.until("it is told to stop", func() (bool, error) {
		p, err := s.Lab.Client().CoreV1().Pods(s.group).Get(s.ctx, pod.Name, metav1.GetOptions{})
		return err == nil && p.DeletionTimestamp != nil, err
	})
	s.failAsKubelet(pod.Name)

	r := end()
	require.Equal(t, termination.StatusForced, r.Status, "%s%s", r.ErrorMessage, r.Reason)
	require.Equal(t, drain.Forced, r.pod(t, pod.Name).Outcome)
	s.until("the Job has another pod, or has failed", func() (bool, error) {
		j, err := s.Lab.Client().BatchV1().Jobs(s.group).Get(s.ctx, "batch", metav1.GetOptions{})
		return err == nil && (isFailed(j) || j.Status.Active == 1 && s.running(s.instances[0])+s.running(s.instances[1]) == 1), err
	})
	j, err := s.Lab.Client().BatchV1().Jobs(s.group).Get(s.ctx, "batch", metav1.GetOptions{})
	require.NoError(t, err)
	require.False(t, isFailed(j), "%+v", j.Status)
	require.Zero(t, j.Status.Failed)
}

func isFailed(j *batchv1.Job) bool {
	return slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
		return (c.Type == batchv1.JobFailed || c.Type == batchv1.JobFailureTarget) && c.Status == corev1.ConditionTrue
	})
}

// failAsKubelet writes what the kubelet of a pod writes whose containers SIGTERM has ended.
func (s *fixture) failAsKubelet(pod string) {
	s.Helper()
	status := `{"status":{"phase":"Failed","containerStatuses":[{"name":"main","image":"none","imageID":"none","ready":false,"restartCount":0,
		"state":{"terminated":{"exitCode":143,"reason":"Error"}}}]}}`
	_, err := s.Lab.Client().CoreV1().Pods(s.group).Patch(s.ctx, pod, types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status")
	require.NoError(s, err)
}

// pdbAtLeast creates a PDB that keeps so many of the app's pods. Unlike maxUnavailable, it needs no controller with a scale.
func (s *fixture) pdbAtLeast(app string, healthy int32) {
	s.Helper()
	least := intstr.FromInt32(healthy)
	pdbs := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group)
	_, err := pdbs.Create(s.ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: &least, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
		},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	s.until("PDB "+app+" is counted", func() (bool, error) {
		b, err := pdbs.Get(s.ctx, app, metav1.GetOptions{})
		return err == nil && b.Status.CurrentHealthy >= healthy, err
	})
}
