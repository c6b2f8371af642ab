package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/parts/lab"
)

// A pod that is told it has a week believes it, and is killed with its instance in the middle of its work.
func TestEvict_GraceOfAWeek_NoMoreThanTheTimeLeft(t *testing.T) {
	const week = 604800
	s := newFixture(t, 1, minuteDrain)
	target := s.instances[0]
	s.runPodOn(target, "patient", stopsAfter("4s"), func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(week)) })
	s.runPodOn(target, "brief", stopsAfter("4s"), func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(7)) })
	end := s.begin(target)
	given := map[string]int64{}
	s.until("both are told to stop", func() (bool, error) {
		for _, p := range s.podsOn(target) {
			if _, seen := given[p.Name]; !seen && p.DeletionGracePeriodSeconds != nil {
				given[p.Name] = *p.DeletionGracePeriodSeconds
			}
		}
		return len(given) == 2, nil
	})
	r := end()
	require.Equal(t, termination.StatusDrained, r.Status, r.ErrorMessage)
	require.Positive(t, given["patient"])
	require.LessOrEqual(t, given["patient"], int64(r.Deadline.Sub(r.StartedAt)/time.Second)+1)
	require.Equal(t, int64(7), given["brief"], "its own grace is shorter")
	require.Len(t, s.evictions("patient"), 1)
}

// Each pod has a PDB of its own that never allows a disruption, and a webhook takes its time for each deletion. If asking began when
// only the pods' grace is left, many would never be told to stop. The grace is what a loaded machine may take longer.
func TestForce_ManyPDBsAndSlowWebhook_AllToldInTime(t *testing.T) {
	const teams, perDeletion = 80, 1500 * time.Millisecond
	s := newFixture(t, 1, minuteDrain)
	target := s.instances[0]
	s.each(teams, func(n int) error { return s.createTeam(fmt.Sprint("team-", n), pinned(target)) })
	s.until("all pods run and all PDBs are counted", func() (bool, error) { return s.teamsReady(teams) })
	s.addWebhook(guarded{admissionregistrationv1.Delete, "", "pods", s.group}, func(r *admissionv1.AdmissionRequest) denial {
		if r.UserInfo.Username == s.function.User {
			time.Sleep(perDeletion)
			return denial{}
		}
		return denial{why: "in force"}
	})
	s.until("the webhook is in force", func() (bool, error) {
		return s.Lab.Client().CoreV1().Pods(s.group).
			Delete(s.ctx, "team-0", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}) != nil, nil
	})

	r := s.drain(target)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	told := map[string]time.Time{}
	for _, d := range answered(s.requests(s.function), http.StatusOK) {
		if d.Verb == "delete" && d.Resource == "pods" {
			told[d.Name] = d.Done
		}
	}
	for n := range teams {
		at, ok := told[fmt.Sprint("team-", n)]
		require.True(t, ok, "team-%d was never told to stop (%d of %d were)", n, len(told), teams)
		require.True(t, at.Before(r.Deadline), "team-%d was told %v after the deadline", n, at.Sub(r.Deadline))
	}
	require.Equal(t, termination.StatusForced, r.Status)
	for _, line := range r.Pods {
		require.Equal(t, drain.Forced, line.Outcome, line.Reason)
	}
	s.requireCompletedOnce(target)
}

// createTeam creates a pod and a PDB that never allows its disruption.
func (s *fixture) createTeam(name string, change func(*corev1.Pod)) error {
	template := s.template(name)
	template.Annotations = map[string]string{lab.StopAfter: "500ms"}
	template.Spec.TerminationGracePeriodSeconds = new(int64(10))
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Name = name
	change(pod)
	if _, err := s.Lab.Client().CoreV1().Pods(s.group).Create(s.ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	all := intstr.FromInt32(1)
	_, err := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).Create(s.ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: &all, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
		},
	}, metav1.CreateOptions{})
	return err
}

func (s *fixture) teamsReady(teams int) (bool, error) {
	pdbs, err := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).List(s.ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	ready := 0
	for _, pdb := range pdbs.Items {
		if pdb.Status.CurrentHealthy == 1 {
			ready++
		}
	}
	return ready == teams, nil
}
