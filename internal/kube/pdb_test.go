package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

func newPDB(name string, allowed, desired, expected int32) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name, Generation: 1},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
		Status: policyv1.PodDisruptionBudgetStatus{
			ObservedGeneration: 1, DisruptionsAllowed: allowed, DesiredHealthy: desired, CurrentHealthy: desired, ExpectedPods: expected,
		},
	}
}

func webPod(name string) seenPod {
	return seenPod{ready: true, Pod: drain.Pod{Ref: refNamed("app", name, name), Labels: map[string]string{"app": "web"}}}
}

// pdbsWith returns the PDBs of one namespace as a watch would have seen them.
func pdbsWith(all ...*policyv1.PodDisruptionBudget) *pdbs {
	b := newPDBs(context.Background(), nil, func() {})
	b.namespaces["app"] = &namespacePDBs{known: map[string]*pdb{}}
	for _, p := range all {
		b.put(p)
	}
	return b
}

func TestReserve_PDBAllowsOne_OneRequestPasses(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := pdbsWith(newPDB("web", 0, 2, 4))
		first, second := webPod("web-1"), webPod("web-2")
		require.Nil(t, b.reserve(first, false), "each pod is requested once, whatever its PDB allows: it may be unhealthy")
		require.Nil(t, b.reserve(second, false))
		require.Equal(t, []string{"app/web"}, b.reserve(first, false).PDBs)

		b.put(newPDB("web", 1, 2, 4))
		require.Nil(t, b.reserve(first, false))
		require.NotNil(t, b.reserve(second, false), "the one disruption is used")

		time.Sleep(blockedRecheck)
		require.Nil(t, b.reserve(second, false), "after blockedRecheck")
	})
}

func TestReserve_DryRun_CountsNothing(t *testing.T) {
	b := pdbsWith(newPDB("web", 1, 2, 4))
	first, second := webPod("web-1"), webPod("web-2")
	require.Nil(t, b.reserve(first, true))
	require.Nil(t, b.reserve(second, true), "the one disruption is still available")
	require.Nil(t, b.reserve(first, false))
	require.Nil(t, b.reserve(second, true), "it may be unhealthy")
	require.Nil(t, b.reserve(second, false), "the dry run did not count as a request")
	require.NotNil(t, b.reserve(second, true))
}

func TestNeverReason_PDBNeedsAllPods_RechecksRarely(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := pdbsWith(newPDB("web", 0, 1, 1))
		require.Nil(t, b.reserve(webPod("web-1"), false))
		blocked := b.reserve(webPod("web-1"), false)
		require.Contains(t, blocked.Reason, "never")
		time.Sleep(blockedRecheck)
		require.NotNil(t, b.reserve(webPod("web-1"), false), "the recheck is rare")
		time.Sleep(neverRecheck)
		require.Nil(t, b.reserve(webPod("web-1"), false))
	})
	unobserved := newPDB("web", 0, 1, 1)
	unobserved.Generation = 2
	require.Empty(t, NeverReason(unobserved), "the controller has not seen the latest generation")
	require.Empty(t, NeverReason(newPDB("web", 0, 2, 3)))
	require.Empty(t, NeverReason(newPDB("web", 0, 0, 0)))
}

func TestReserve_TwoPDBs_NamesBoth(t *testing.T) {
	b := pdbsWith(newPDB("web", 1, 1, 3), newPDB("frontend", 1, 1, 3))
	require.Nil(t, b.reserve(webPod("web-1"), false))
	require.Equal(t, []string{"app/frontend", "app/web"}, b.reserve(webPod("web-1"), false).PDBs)
}

func TestReserve_PDBDeleted_Passes(t *testing.T) {
	b := pdbsWith(newPDB("web", 0, 2, 4))
	require.Nil(t, b.reserve(webPod("web-1"), false))
	require.NotNil(t, b.reserve(webPod("web-1"), false))
	b.drop(newPDB("web", 0, 2, 4))
	require.Nil(t, b.reserve(webPod("web-1"), false))
}

func TestExplain_OnlyPDBChangeHelps_SaysWhy(t *testing.T) {
	refusal := &drain.Blocked{Reason: "the server's reason"}
	require.Equal(t, refusal, pdbsWith().explain(webPod("web-1"), refusal), "no PDB is known")
	require.Equal(t, refusal, pdbsWith(newPDB("web", 0, 2, 4)).explain(webPod("web-1"), refusal), "the server's reason is as good")
	require.Contains(t, pdbsWith(newPDB("web", 0, 1, 1)).explain(webPod("web-1"), refusal).Reason, "never")
	several := pdbsWith(newPDB("one", 1, 0, 1), newPDB("two", 1, 0, 1))
	require.Equal(t, []string{"app/one", "app/two"}, several.explain(webPod("web-1"), refusal).PDBs)
}

// The owner of the pod reads the numbers: how many healthy pods the PDB needs, and how many there are.
func TestBlocked_PDBKnown_HasItsNumbers(t *testing.T) {
	want := &drain.PDB{Name: "app/web", CurrentHealthy: 2, DesiredHealthy: 2, ExpectedPods: 4}
	d := pdbsWith(newPDB("web", 0, 2, 4))
	refusal := &drain.Blocked{PDBs: []string{"app/web"}, Reason: "the server's reason"}
	require.Equal(t, want, d.explain(webPod("web-1"), refusal).First)
	require.Nil(t, d.reserve(webPod("web-1"), false))
	require.Equal(t, want, d.reserve(webPod("web-1"), false).First)

	stale := newPDB("web", 0, 2, 4)
	stale.Generation = 2
	refusal = &drain.Blocked{PDBs: []string{"app/web"}, Reason: "the server's reason"}
	require.Nil(t, pdbsWith(stale).explain(webPod("web-1"), refusal).First, "they are old")
	require.Nil(t, pdbsWith(newPDB("other", 0, 2, 4)).explain(webPod("web-1"), refusal).First, "it is another PDB's refusal")
}

func syncFailed(p *policyv1.PodDisruptionBudget, message string) *policyv1.PodDisruptionBudget {
	p.Status.Conditions = []metav1.Condition{{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: message,
	}}
	return p
}

func TestNeverReason_SyncFailed_HasItsMessage(t *testing.T) {
	failing := syncFailed(newPDB("web", 0, 0, 0), "jobs.batch does not implement the scale subresource")
	require.Contains(t, NeverReason(failing), "jobs.batch does not implement the scale subresource")
	failing.Status.ObservedGeneration = 0 // it was never synced
	require.Contains(t, NeverReason(failing), "fails to sync")
	blocked := pdbsWith(failing).explain(webPod("web-1"), &drain.Blocked{Reason: "the server's reason"})
	require.True(t, blocked.Never)
	require.Contains(t, blocked.Reason, "fails to sync")
	require.LessOrEqual(t, len(NeverReason(syncFailed(failing, strings.Repeat("x", 32<<10)))), drain.MaxText)

	failing.Status.Conditions[0].Reason = policyv1.InsufficientPodsReason
	require.Empty(t, NeverReason(failing))
}

// What the server would answer is only guessed. Where the guess may be wrong, the server is asked.
func TestReserve_GuessMayBeWrong_Asks(t *testing.T) {
	healthy := func(name string, allowed, current int32) *policyv1.PodDisruptionBudget {
		p := newPDB(name, allowed, 2, 4)
		p.Status.CurrentHealthy = current
		return p
	}
	unready := func(p seenPod) seenPod { p.ready = false; return p }
	for name, c := range map[string]struct {
		pdb  *policyv1.PodDisruptionBudget
		pod  seenPod
		then func(*pdbs, *seenPod) // after the first request was refused
		asks bool
	}{
		"nothing changes": {healthy("web", 0, 2), webPod("web-1"), func(*pdbs, *seenPod) {}, false},
		"the pod is not ready any more, and may go without the PDB's leave": {
			healthy("web", 0, 2), webPod("web-1"), func(_ *pdbs, p *seenPod) { p.ready = false }, true},
		"the pod is ready, and may go with it": {
			healthy("web", 0, 2), unready(webPod("web-1")), func(_ *pdbs, p *seenPod) { p.ready = true }, true},
		"the pod is not ready, and the others are healthy now": {
			healthy("web", 0, 1), unready(webPod("web-1")), func(d *pdbs, _ *seenPod) { d.put(withVersion(healthy("web", 0, 2), "2")) }, true},
		"the pod is not ready, and the number of others changes in vain": {
			healthy("web", 0, 0), unready(webPod("web-1")), func(d *pdbs, _ *seenPod) { d.put(withVersion(healthy("web", 0, 1), "2")) }, false},
		"the pod is not ready, and the PDB's policy may have changed": {
			healthy("web", 0, 1), unready(webPod("web-1")), func(d *pdbs, _ *seenPod) {
				changed := withVersion(healthy("web", 0, 1), "2")
				changed.Generation, changed.Status.ObservedGeneration = 2, 2
				d.put(changed)
			}, true},
		"the pod is ready, and the others change": {
			healthy("web", 0, 1), webPod("web-1"), func(d *pdbs, _ *seenPod) { d.put(withVersion(healthy("web", 0, 2), "2")) }, false},
		"the PDB is changed, and its status is of before": {
			healthy("web", 0, 2), webPod("web-1"), func(d *pdbs, _ *seenPod) {
				changed := withVersion(healthy("web", 0, 2), "2")
				changed.Generation = 2
				d.put(changed)
				time.Sleep(staleRecheck)
			}, true},
		"the labels are too many": {
			healthy("web", 0, 2), seenPod{Pod: webPod("web-1").Pod, ready: true, labelsUnknown: true}, func(*pdbs, *seenPod) {}, true},
		"it can never allow, and the watch works": {
			newPDB("web", 0, 1, 1), webPod("web-1"), func(d *pdbs, _ *seenPod) {
				d.namespaces["app"].watch = &activeWatch{}
				d.namespaces["app"].watch.live.Store(true)
				time.Sleep(blockedRecheck)
			}, false},
		"it can never allow, but the watch is broken": {
			newPDB("web", 0, 1, 1), webPod("web-1"), func(d *pdbs, _ *seenPod) {
				d.namespaces["app"].watch = &activeWatch{}
				time.Sleep(blockedRecheck)
			}, true},
		"the selector is too large to keep": {
			func() *policyv1.PodDisruptionBudget {
				p := healthy("web", 0, 2)
				p.Spec.Selector.MatchExpressions = []metav1.LabelSelectorRequirement{{
					Key: "other", Operator: metav1.LabelSelectorOpNotIn, Values: []string{strings.Repeat("x", maxSelectorBytes)},
				}}
				return p
			}(), webPod("web-1"), func(*pdbs, *seenPod) {}, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				d, pod := pdbsWith(c.pdb), c.pod
				require.Nil(t, d.reserve(pod, false))
				c.then(d, &pod)
				require.Equal(t, c.asks, d.reserve(pod, false) == nil)
			})
		})
	}
}

// Without a known PDB, each change on the node would repeat the request in vain.
func TestReserve_PDBUnknown_AsksOnceASecond(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		d, pod := pdbsWith(), webPod("web-1")
		require.Nil(t, d.reserve(pod, false))
		refusal := d.explain(pod, &drain.Blocked{Reason: "the server's reason"})
		require.Equal(t, refusal, d.reserve(pod, false))
		time.Sleep(unknownRecheck)
		require.Nil(t, d.reserve(pod, false))
		d.explain(pod, refusal)
		d.put(newPDB("web", 1, 2, 4))
		require.Nil(t, d.reserve(pod, false), "the PDB is known now, and has room")
	})
}

func withVersion(p *policyv1.PodDisruptionBudget, version string) *policyv1.PodDisruptionBudget {
	p.ResourceVersion = version
	return p
}

// A request that evicts nothing takes nothing from the PDB. If it counted, the others would wait although there is room.
func TestRelease_RequestFailed_OthersAreAsked(t *testing.T) {
	d := pdbsWith(newPDB("web", 1, 2, 4))
	for _, name := range []string{"web-1", "web-2"} {
		require.Nil(t, d.reserve(webPod(name), false))
		d.release(webPod(name)) // a webhook denied it
	}
	require.Nil(t, d.reserve(webPod("web-1"), false))
	require.Nil(t, d.reserve(webPod("web-2"), false), "no PDB has answered for it yet")
	require.NotNil(t, d.reserve(webPod("web-2"), false), "the one disruption is used")
	d.put(withVersion(newPDB("web", 1, 2, 4), "2"))
	d.release(webPod("web-1"))
	require.Equal(t, 1, d.namespaces["app"].known["app/web"].allowed, "the newer status has not counted the request")
}

func TestReserve_PodNotReady_TakesNothing(t *testing.T) {
	d := pdbsWith(newPDB("web", 1, 2, 4))
	unready := webPod("web-1")
	unready.ready = false
	require.Nil(t, d.reserve(unready, false))
	for _, name := range []string{"web-2", "web-3"} { // each was requested once already
		d.asked[webPod(name).Ref] = asked{at: time.Now(), ready: true, versions: 1}
	}
	require.Nil(t, d.reserve(webPod("web-2"), false))
	require.NotNil(t, d.reserve(webPod("web-3"), false))
}

func TestPDBList_Replaces_DropsTheOthers(t *testing.T) {
	d := pdbsWith(newPDB("a", 0, 1, 2), newPDB("b", 0, 1, 2))
	sink := namespaceSink{d, d.namespaces["app"]}
	sink.begin()
	sink.put(toPDB(newPDB("b", 0, 1, 2)))
	require.Len(t, d.matching(webPod("web-1")), 2, "the list is not complete")
	sink.put(toPDB(newPDB("c", 0, 1, 2)))
	sink.drop(toPDB(newPDB("c", 0, 1, 2)))
	sink.end()
	require.Equal(t, []string{"app/b"}, pdbNames(d.matching(webPod("web-1"))))
	for i := range 2 * maxPDBs {
		d.put(newPDB(fmt.Sprint("more-", i), 0, 1, 2))
	}
	require.Len(t, d.namespaces["app"].known, maxPDBs)
}

// A tenant's selectors are compared with each of the tenant's pods at each change. They must not take the function's time.
func TestPDBs_CostlySelectors_FewAreKept(t *testing.T) {
	costly := newPDB("costly", 0, 1, 2)
	for i := range 250 {
		costly.Spec.Selector.MatchExpressions = append(costly.Spec.Selector.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: fmt.Sprint("k", i), Operator: metav1.LabelSelectorOpDoesNotExist,
		})
	}
	costly.Spec.Selector.MatchExpressions = append(costly.Spec.Selector.MatchExpressions, metav1.LabelSelectorRequirement{
		Key: "k", Operator: metav1.LabelSelectorOpIn, Values: make([]string, 250),
	})
	d := pdbsWith(newPDB("web", 0, 1, 2))
	for i := range 200 {
		costly.Name = fmt.Sprint("costly-", i)
		d.put(costly)
	}
	kept := len(d.namespaces["app"].known)
	require.Less(t, kept, 22)
	d.put(newPDB("another", 0, 1, 2))
	require.Len(t, d.namespaces["app"].known, kept+1, "an ordinary one still fits")

	costly.Name = "web"
	d.put(costly)
	require.NotContains(t, d.namespaces["app"].known, "app/web", "one that has become too costly is forgotten")
}

// A PDB over the pods of a Job cannot count them, since a Job has no scale. It allows nothing, and says why in a condition.
func TestEvict_PDBCannotSync_SaysWhyAtOnce(t *testing.T) {
	e := newLabEnv(t)
	e.apply(`
apiVersion: batch/v1
kind: Job
metadata: {name: import}
spec:
  template:
    metadata: {labels: {app: import}, annotations: {lab/stop-after: 60s, lab/complete-after: 600s}}
    spec: {nodeName: node-a, restartPolicy: Never, containers: [{name: app, image: app}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: import}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: import}}}
`)
	pod := e.awaitReady("app=import", 1)[0]
	e.eventually(func() bool {
		p, err := e.Client().PolicyV1().PodDisruptionBudgets(e.namespace).Get(t.Context(), "import", metav1.GetOptions{})
		return err == nil && NeverReason(p) != ""
	})
	watched, err := e.client.WatchPods(t.Context(), drain.Node{Name: "node-a"}, drain.EffortFull)
	require.NoError(t, err)
	var blocked *drain.Blocked
	e.eventually(func() bool { // a busy API server may list the PDBs too late for the first answer
		require.ErrorAs(t, watched.Evict(t.Context(), refOf(&pod), drain.EvictOptions{}), &blocked)
		return blocked.Never
	})
	require.Equal(t, []string{e.namespace + "/import"}, blocked.PDBs)
	require.Contains(t, blocked.Reason, "jobs.batch does not implement the scale subresource")

	planned, err := e.client.PDBs(t.Context(), slices.DeleteFunc(watched.Pods(), func(p drain.Pod) bool { return p.UID != string(pod.UID) }))
	require.NoError(t, err)
	require.Len(t, planned, 1)
	require.Equal(t, blocked.Reason, planned[0].NeverReason)
	require.Equal(t, []string{e.namespace + "/" + pod.Name}, planned[0].Pods)
}
