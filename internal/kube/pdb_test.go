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

func pdbsWith(all ...*policyv1.PodDisruptionBudget) *pdbs {
	b := newPDBs(context.Background(), nil, func() {})
	for _, p := range all {
		namespaceSink{b, "app"}.put(p)
	}
	return b
}

func TestTheServerIsAskedForAsManyPodsAsABudgetHasRoomFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pdbsWith(newPDB("web", 0, 2, 4))
		first, second := webPod("web-1"), webPod("web-2")
		require.Nil(t, b.reserve(first, false), "each pod is asked for once, whatever its budget looks like: it may be unhealthy")
		require.Nil(t, b.reserve(second, false))
		require.Equal(t, []string{"app/web"}, b.reserve(first, false).PDBs)

		namespaceSink{b, "app"}.put(newPDB("web", 1, 2, 4))
		require.Nil(t, b.reserve(first, false))
		require.NotNil(t, b.reserve(second, false), "the one place is taken")

		time.Sleep(blockedRecheck)
		require.Nil(t, b.reserve(second, false), "the safety net")
	})
}

func TestADryRunTakesNoPlaceAndIsAnsweredHereWhereTheServerWasJustAsked(t *testing.T) {
	b := pdbsWith(newPDB("web", 1, 2, 4))
	first, second := webPod("web-1"), webPod("web-2")
	require.Nil(t, b.reserve(first, true))
	require.Nil(t, b.reserve(second, true), "the one place is still there")
	require.Nil(t, b.reserve(first, false))
	require.Nil(t, b.reserve(second, true), "it may be unhealthy")
	require.Nil(t, b.reserve(second, false), "and has not been asked for by that")
	require.NotNil(t, b.reserve(second, true))
}

func TestWhyABudgetCanNeverAllow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pdbsWith(newPDB("web", 0, 1, 1))
		require.Nil(t, b.reserve(webPod("web-1"), false))
		blocked := b.reserve(webPod("web-1"), false)
		require.Contains(t, blocked.Reason, "never")
		time.Sleep(blockedRecheck)
		require.NotNil(t, b.reserve(webPod("web-1"), false), "it is asked again rarely")
		time.Sleep(neverRecheck)
		require.Nil(t, b.reserve(webPod("web-1"), false))
	})
	unseen := newPDB("web", 0, 1, 1)
	unseen.Generation = 2
	require.Empty(t, neverReason(unseen), "its controller has not counted the latest form yet")
	require.Empty(t, neverReason(newPDB("web", 0, 2, 3)))
	require.Empty(t, neverReason(newPDB("web", 0, 0, 0)))
}

func TestTwoBudgetsOnOnePodAreNamed(t *testing.T) {
	b := pdbsWith(newPDB("web", 1, 1, 3), newPDB("frontend", 1, 1, 3))
	require.Nil(t, b.reserve(webPod("web-1"), false))
	require.Equal(t, []string{"app/frontend", "app/web"}, b.reserve(webPod("web-1"), false).PDBs)
}

func TestABudgetThatIsGoneRefusesNothing(t *testing.T) {
	b := pdbsWith(newPDB("web", 0, 2, 4))
	require.Nil(t, b.reserve(webPod("web-1"), false))
	require.NotNil(t, b.reserve(webPod("web-1"), false))
	namespaceSink{b, "app"}.drop(newPDB("web", 0, 2, 4))
	require.Nil(t, b.reserve(webPod("web-1"), false))
}

func TestARefusalThatOnlyAChangeOfBudgetsEndsIsExplained(t *testing.T) {
	said := &drain.Blocked{Reason: "in the server's words"}
	require.Equal(t, said, pdbsWith().explain(webPod("web-1"), said), "nothing is known")
	require.Equal(t, said, pdbsWith(newPDB("web", 0, 2, 4)).explain(webPod("web-1"), said), "the server knows best")
	require.Contains(t, pdbsWith(newPDB("web", 0, 1, 1)).explain(webPod("web-1"), said).Reason, "never")
	several := pdbsWith(newPDB("one", 1, 0, 1), newPDB("two", 1, 0, 1))
	require.Equal(t, []string{"app/one", "app/two"}, several.explain(webPod("web-1"), said).PDBs)
}
