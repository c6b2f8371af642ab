package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

// refusal is what a webhook says.
const refusal = "the shard is being rebuilt, ask again in ten minutes"

// A webhook may choose any status. With 429 it looks like an overloaded API server, for which everything slows down, and the report
// names neither the webhook nor its reason.
func TestEvict_WebhookAnswers429_OthersNotSlowed(t *testing.T) {
	const others = 40
	p := newQueueFixture(t, 1, 1, 20*time.Second)
	target := p.instances[0]
	p.runPodOn(target, "shard", stopsAfter("100ms"))
	for n := range others {
		p.createPod(fmt.Sprint("web-", n), pinned(target), stopsAfter("100ms"))
	}
	p.until("all run", func() (bool, error) { return p.running(target) == others+1, nil })
	var over atomic.Bool
	p.addWebhook(guarded{admissionregistrationv1.Create, "", "pods/eviction", p.group}, func(r *admissionv1.AdmissionRequest) denial {
		if r.Name == "shard" && !over.Load() {
			return denial{refusal, http.StatusTooManyRequests}
		}
		return denial{}
	})
	p.awaitDenied("shard", refusal)
	began := time.Now()
	p.send(p.terminate(target).Body)
	p.deliver(1)
	p.until("the others are gone", func() (bool, error) { return len(p.podsOn(target)) == 1, nil })
	t.Logf("%d pods left within %v", others, time.Since(began))
	p.awaitLog(handedOff)
	over.Store(true)
	p.awaitEmptyQueue()

	first := report{Report: p.logLines(handedOff)[0].Report}.pod(t, "shard")
	require.Equal(t, drain.Outcome("refused"), first.Outcome)
	require.Contains(t, first.Reason, refusal)
	require.Contains(t, first.Reason, "guard.quiesce.test", "the webhook is named")
	require.NotContains(t, p.function.Output(), "throttled by the API server")
	require.Equal(t, termination.StatusDrained, p.logLines("event handled")[0].Report.Status)
	p.requireCompletedOnce(target)
}

// running returns how many of the instance's pods run.
func (s *fixture) running(i env.Instance) (n int) {
	s.Helper()
	for _, p := range s.podsOn(i) {
		if p.Status.Phase == corev1.PodRunning {
			n++
		}
	}
	return n
}

// A PDB with maxUnavailable over the pods of a Job cannot be computed: a Job has no scale. It allows nothing, however many pods are
// healthy, until a person changes it.
func TestPDB_CannotSync_SaidInPlanAndReport(t *testing.T) {
	s := newFixture(t, 1, "drain: {maxDuration: 25s, completionReserve: 1s, onDeadline: keep, nodeJoinTimeout: 1s, volumeDetachTimeout: 1s}")
	target := s.instances[0]
	s.runningJob("batch", nil)
	s.unsyncablePDB("batch")
	pod := s.podsOn(target)[0].Name

	plan := s.invoke(object{"action": "plan", "instanceId": target.ID})
	require.Equal(t, termination.StatusPlanned, plan.Status, plan.ErrorMessage)
	require.Len(t, plan.Plan.PDBs, 1)
	require.Contains(t, plan.Plan.PDBs[0].NeverReason, "scale subresource", "the condition's message")

	r := s.drain(target)
	require.Equal(t, termination.StatusPartial, r.Status, r.ErrorMessage)
	line := r.pod(t, pod)
	require.Contains(t, line.Reason, "scale subresource")
	require.Equal(t, []string{s.group + "/batch"}, line.BlockedBy)
	require.LessOrEqual(t, len(s.evictions(pod)), 2, "asked rarely")
	s.requireCompletedOnce(target)
}

// The same PDB can be repaired while the drain runs.
func TestPDB_CannotSyncThenRepaired_EvictedAtOnce(t *testing.T) {
	s := newFixture(t, 1)
	target := s.instances[0]
	s.runningJob("batch", nil)
	s.unsyncablePDB("batch")
	end := s.begin(target)
	s.awaitLogs("eviction blocked")
	s.removePDB("batch")
	began := time.Now()
	r := end()
	require.Equal(t, termination.StatusDrained, r.Status, r.ErrorMessage)
	require.Less(t, r.FinishedAt.Sub(began), 20*time.Second)
}

// runningJob runs a Job whose only pod does not complete by itself.
func (s *fixture) runningJob(app string, policy *batchv1.PodFailurePolicy) {
	s.Helper()
	template := s.template(app)
	template.Spec.RestartPolicy = "Never"
	template.Spec.TerminationGracePeriodSeconds = new(int64(4))
	template.Annotations = map[string]string{lab.CompleteAfter: "1h", lab.StopAfter: "500ms"}
	jobs := s.Lab.Client().BatchV1().Jobs(s.group)
	_, err := jobs.Create(s.ctx, &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec:       batchv1.JobSpec{Template: template, PodFailurePolicy: policy, BackoffLimit: new(int32(0))},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	s.until("job "+app+" runs", func() (bool, error) {
		j, err := jobs.Get(s.ctx, app, metav1.GetOptions{})
		return err == nil && j.Status.Ready != nil && *j.Status.Ready == 1, err
	})
}

// unsyncablePDB creates a PDB that the disruption controller cannot compute, and waits until its status says so.
func (s *fixture) unsyncablePDB(app string) {
	s.Helper()
	pdbs, one := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group), intstr.FromInt32(1)
	_, err := pdbs.Create(s.ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
		},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	s.until("PDB "+app+" fails to sync", func() (bool, error) {
		pdb, err := pdbs.Get(s.ctx, app, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range pdb.Status.Conditions {
			if c.Reason == policyv1.SyncFailedReason && strings.Contains(c.Message, "scale subresource") {
				return true, nil
			}
		}
		return false, nil
	})
}
