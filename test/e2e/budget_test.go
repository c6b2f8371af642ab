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

// shortAndLenient is for drains that are to meet their deadline: soon, and without force.
const shortAndLenient = "drain: {maxDuration: 8s, reserve: 1s, onDeadline: leave, joinGrace: 1s, volumeDetach: 1s}"

// A budget that is overrun is an outage that its owner had asked to be spared; one that is asked in a loop is load on the API
// server just when it has most to do.
func TestABudgetIsKeptAndNotHammered(t *testing.T) {
	s := setScene(t, 2)
	s.deploy("web", 6, func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations = map[string]string{lab.ReadyAfter: "300ms"} // a successor takes its time to be of use
	})
	s.budget("web", "web", 1)
	victim := s.hostOf("web")
	before := len(s.podsOn(victim))
	require.GreaterOrEqual(t, before, 3)
	seen := s.watchBudget("web")

	report := s.drain(victim)
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	for _, status := range seen() {
		require.GreaterOrEqual(t, status.CurrentHealthy, status.DesiredHealthy)
	}
	require.Len(t, answered(s.evictions(""), http.StatusCreated), before)
	require.LessOrEqual(t, len(s.evictions("")), 2*before, "one request that finds no room, and one that does")
	require.NotContains(t, verbsOn(s.requests(s.function), "pods"), "delete")
}

// While a budget that has room again goes unnoticed, nothing moves: over a node's pods those seconds add up to the deadline.
func TestTheNextEvictionComesAsSoonAsABudgetHasRoom(t *testing.T) {
	s := setScene(t, 2)
	s.deploy("web", 1)
	s.budget("web", "web", 0)
	victim := s.hostOf("web")
	end := s.begin(victim)
	s.until("the function watches the budgets", func() (bool, error) {
		return slices.Contains(verbsOn(s.requests(s.function), "poddisruptionbudgets"), "watch"), nil
	})
	s.logs("can never allow")

	s.allow("web", 1)
	report := end()
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	accepted := answered(s.evictions(""), http.StatusCreated)
	require.Len(t, accepted, 1)
	took := accepted[0].Time.Sub(s.freed("web", accepted[0].Time))
	t.Logf("budget freed -> eviction: %s", took)
	require.Less(t, took, time.Second)
}

// freed is when the last word before a moment on what a budget allows reached the API server.
func (s *scene) freed(budget string, before time.Time) (last time.Time) {
	s.Helper()
	written, err := s.Lab.Audit().By(lab.Controllers)
	require.NoError(s, err)
	for _, r := range written {
		if r.Namespace == s.group && r.Name == budget && r.Code == http.StatusOK && r.Time.Before(before) {
			last = r.Time
		}
	}
	require.NotZero(s, last)
	return last
}

// The eviction API never evicts a pod under two budgets. What helps is that somebody is told which two they are.
func TestAPodUnderTwoBudgetsIsReportedWithBothAndRarelyAskedFor(t *testing.T) {
	s := setScene(t, 2)
	s.deploy("web", 1)
	s.budget("one", "web", 1)
	s.budget("two", "web", 1)
	victim := s.hostOf("web")
	name := s.podsOn(victim)[0].Name
	s.podOn(victim, "other")
	end := s.begin(victim)
	s.logs(s.group+"/one, "+s.group+"/two", "more than one PodDisruptionBudget")
	s.gone("other") // and meanwhile the drain looked at the node several times

	require.Len(t, s.evictions(name), 1)
	s.removeBudget("two")
	report := end()
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.ElementsMatch(t, []string{s.group + "/one", s.group + "/two"}, report.of(t, name).BlockedBy)
	require.Equal(t, drain.Evicted, report.of(t, name).Outcome)
	require.Len(t, s.evictions(name), 2)
}

// Nobody is served by half an hour of trying what cannot be: whoever reads the log at once can still mend it.
func TestABudgetThatCanNeverAllowIsSaidAtOnce(t *testing.T) {
	s := setScene(t, 2, shortAndLenient)
	s.deploy("web", 1)
	s.budget("web", "web", 0)
	victim := s.hostOf("web")
	name := s.podsOn(victim)[0].Name
	end := s.begin(victim)
	s.logs("can never allow a disruption")
	require.Empty(t, s.AWS.Completions(victim.ID), "said while the drain runs")

	report := end()
	require.Equal(t, termination.StatusPartial, report.Status, report.ErrorMessage)
	require.Equal(t, termination.Continue, report.LifecycleResult)
	pod := report.of(t, name)
	require.Equal(t, drain.Remained, pod.Outcome)
	require.Contains(t, pod.Reason, "can never allow a disruption: wants 1 healthy pods of 1")
	require.Equal(t, []string{s.group + "/web"}, pod.BlockedBy)
	require.Len(t, s.evictions(name), 1)
	require.Len(t, s.podsOn(victim), 1)
}

// sighting is a budget's status as it was seen.
type sighting struct {
	policyv1.PodDisruptionBudgetStatus
	at time.Time
}

// watchBudget follows a budget's status. The returned function ends that, and has all that was seen.
func (s *scene) watchBudget(name string) (seen func() []sighting) {
	s.Helper()
	ctx, stop := context.WithCancel(s.ctx)
	watch, err := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).Watch(ctx, metav1.SingleObject(metav1.ObjectMeta{Name: name}))
	require.NoError(s, err)
	var all []sighting
	var reading sync.WaitGroup
	reading.Go(func() {
		for event := range watch.ResultChan() {
			if budget, ok := event.Object.(*policyv1.PodDisruptionBudget); ok {
				all = append(all, sighting{budget.Status, time.Now()})
			}
		}
	})
	return func() []sighting {
		stop()
		reading.Wait()
		return all
	}
}

// allow changes a budget.
func (s *scene) allow(budget string, maxUnavailable int) {
	s.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"maxUnavailable":%d}}`, maxUnavailable)
	_, err := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).
		Patch(s.ctx, budget, types.MergePatchType, patch, metav1.PatchOptions{})
	require.NoError(s, err)
}

func (s *scene) removeBudget(name string) {
	s.Helper()
	require.NoError(s, s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).Delete(s.ctx, name, metav1.DeleteOptions{}))
}

// verbsOn are the verbs of the requests that name the resource itself.
func verbsOn(all []lab.Request, resource string) (verbs []string) {
	for _, r := range all {
		if r.Resource == resource && r.Subresource == "" {
			verbs = append(verbs, r.Verb)
		}
	}
	return verbs
}
