package kube

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
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

func webPod(name string) drain.Pod {
	return drain.Pod{Ref: drain.Ref{Namespace: "app", Name: name, UID: name}, Labels: map[string]string{"app": "web"}}
}

// pdbsWith returns the PDBs of one namespace as a watch would have seen them.
func pdbsWith(all ...*policyv1.PodDisruptionBudget) *pdbs {
	b := newPDBs(context.Background(), nil, func() {})
	for _, p := range all {
		namespaceSink{b, "app"}.put(p)
	}
	return b
}

func TestReserve_PDBAllowsOne_OneRequestPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pdbsWith(newPDB("web", 0, 2, 4))
		first, second := webPod("web-1"), webPod("web-2")
		require.Nil(t, b.reserve(first, false), "each pod is requested once, whatever its PDB allows: it may be unhealthy")
		require.Nil(t, b.reserve(second, false))
		require.Equal(t, []string{"app/web"}, b.reserve(first, false).PDBs)

		namespaceSink{b, "app"}.put(newPDB("web", 1, 2, 4))
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
	synctest.Test(t, func(t *testing.T) {
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
	require.Empty(t, neverReason(unobserved), "the controller has not seen the latest generation")
	require.Empty(t, neverReason(newPDB("web", 0, 2, 3)))
	require.Empty(t, neverReason(newPDB("web", 0, 0, 0)))
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
	namespaceSink{b, "app"}.drop(newPDB("web", 0, 2, 4))
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
