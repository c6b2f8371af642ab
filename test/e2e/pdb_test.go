package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/parts/lab"
)

// shortDeadlineKeep lets a drain reach its deadline soon, without force.
const shortDeadlineKeep = "drain: {maxDuration: 8s, completionReserve: 1s, onDeadline: keep, nodeJoinTimeout: 1s, volumeDetachTimeout: 1s}"

// Too many evictions break the PDB that the pod's owner relies on. Requests in a loop load the API server when it has most to do.
func TestPDB_OneAllowed_KeptWithFewRequests(t *testing.T) {
	s := newFixture(t, 2)
	s.deploy("web", 6, func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations = map[string]string{lab.ReadyAfter: "300ms"} // a replacement takes time to become ready
	})
	s.pdb("web", "web", 1)
	target := s.hostOf("web")
	before := len(s.podsOn(target))
	require.GreaterOrEqual(t, before, 3)
	seen := s.watchPDB("web")

	report := s.drain(target)
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	for _, status := range seen() {
		require.GreaterOrEqual(t, status.CurrentHealthy, status.DesiredHealthy)
	}
	require.Len(t, answered(s.evictions(""), http.StatusCreated), before)
	require.LessOrEqual(t, len(s.evictions("")), 2*before, "one request that finds no room, and one that does")
	require.NotContains(t, verbsOn(s.requests(s.function), "pods"), "delete")
}

// recheck is how soon a blocked eviction is tried again without a change. How fast the watch is, benchmarks measure.
const recheck = 9 * time.Second

// Nothing is evicted until the drain sees that the PDB has room again. Over all pods of a node those seconds add up to the
// deadline.
func TestPDB_RoomAgain_NextEvictionAtOnce(t *testing.T) {
	s := newFixture(t, 2)
	s.deploy("web", 1)
	s.pdb("web", "web", 0)
	target := s.hostOf("web")
	end := s.begin(target)
	s.until("the function watches the PDBs", func() (bool, error) {
		return slices.Contains(verbsOn(s.requests(s.function), "poddisruptionbudgets"), "watch"), nil
	})
	s.awaitLogs("can never allow")

	s.setMaxUnavailable("web", 1)
	report := end()
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	accepted := answered(s.evictions(""), http.StatusCreated)
	require.Len(t, accepted, 1)
	took := accepted[0].Time.Sub(s.pdbUpdatedAt("web", accepted[0].Time))
	t.Logf("PDB has room -> eviction: %s", took)
	require.Less(t, took, recheck, "the watch tells, not another try")
}

// pdbUpdatedAt returns when the PDB's status was last written before the given time.
func (s *fixture) pdbUpdatedAt(pdb string, before time.Time) (last time.Time) {
	s.Helper()
	written, err := s.Lab.Audit().By(lab.Controllers)
	require.NoError(s, err)
	for _, r := range written {
		if r.Namespace == s.group && r.Name == pdb && r.Code == http.StatusOK && r.Time.Before(before) {
			last = r.Time
		}
	}
	require.NotZero(s, last)
	return last
}

// The eviction API never evicts a pod that two PDBs select. The report must name both.
func TestPDB_TwoOnOnePod_BothReportedFewRequests(t *testing.T) {
	s := newFixture(t, 2)
	s.deploy("web", 1)
	s.pdb("one", "web", 1)
	s.pdb("two", "web", 1)
	target := s.hostOf("web")
	name := s.podsOn(target)[0].Name
	s.runPodOn(target, "other", stopsAfter("5s"))
	end := s.begin(target)
	s.awaitLogs(s.group+"/one, "+s.group+"/two", "more than one PodDisruptionBudget")
	asked := len(s.evictions(name)) // more than once if the PDBs became known late
	s.awaitGone("other")            // meanwhile the drain looked at the node several times

	require.Len(t, s.evictions(name), asked)
	s.removePDB("two")
	report := end()
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.ElementsMatch(t, []string{s.group + "/one", s.group + "/two"}, report.pod(t, name).BlockedBy)
	require.Equal(t, drain.Evicted, report.pod(t, name).Outcome)
	require.Len(t, s.evictions(name), asked+1)
}

// Half an hour of retries cannot help here. A log line at once lets an operator fix the PDB in time.
func TestPDB_NeverAllows_LoggedAtOnce(t *testing.T) {
	s := newFixture(t, 2, shortDeadlineKeep)
	s.deploy("web", 1)
	s.pdb("web", "web", 0)
	target := s.hostOf("web")
	name := s.podsOn(target)[0].Name
	end := s.begin(target)
	s.awaitLogs("can never allow a disruption")
	require.Empty(t, s.AWS.Completions(target.ID), "logged while the drain runs")

	report := end()
	require.Equal(t, termination.StatusPartial, report.Status, report.ErrorMessage)
	require.Equal(t, termination.Continue, report.LifecycleResult)
	pod := report.pod(t, name)
	require.Equal(t, drain.Remained, pod.Outcome)
	require.Contains(t, pod.Reason, "can never allow a disruption: wants 1 healthy pods of 1")
	require.Equal(t, []string{s.group + "/web"}, pod.BlockedBy)
	require.Len(t, s.evictions(name), 1)
	require.Len(t, s.podsOn(target), 1)
}

// pdbStatus is one observed status of a PDB.
type pdbStatus struct {
	policyv1.PodDisruptionBudgetStatus
	at time.Time
}

// watchPDB watches a PDB's status. The returned function stops the watch and returns all statuses seen.
func (s *fixture) watchPDB(name string) (seen func() []pdbStatus) {
	s.Helper()
	ctx, stop := context.WithCancel(s.ctx)
	watch, err := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).Watch(ctx, metav1.SingleObject(metav1.ObjectMeta{Name: name}))
	require.NoError(s, err)
	var all []pdbStatus
	var reading sync.WaitGroup
	reading.Go(func() {
		for event := range watch.ResultChan() {
			if pdb, ok := event.Object.(*policyv1.PodDisruptionBudget); ok {
				all = append(all, pdbStatus{pdb.Status, time.Now()})
			}
		}
	})
	return func() []pdbStatus {
		stop()
		reading.Wait()
		return all
	}
}

// setMaxUnavailable changes a PDB.
func (s *fixture) setMaxUnavailable(pdb string, maxUnavailable int) {
	s.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"maxUnavailable":%d}}`, maxUnavailable)
	_, err := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).
		Patch(s.ctx, pdb, types.MergePatchType, patch, metav1.PatchOptions{})
	require.NoError(s, err)
}

func (s *fixture) removePDB(name string) {
	s.Helper()
	require.NoError(s, s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).Delete(s.ctx, name, metav1.DeleteOptions{}))
}

// verbsOn returns the verbs of the requests for the resource itself, without subresources.
func verbsOn(all []lab.Request, resource string) (verbs []string) {
	for _, r := range all {
		if r.Resource == resource && r.Subresource == "" {
			verbs = append(verbs, r.Verb)
		}
	}
	return verbs
}
