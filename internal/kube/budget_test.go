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

func pdb(name string, allowed, desired, expected int32) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name, Generation: 1},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
		Status: policyv1.PodDisruptionBudgetStatus{
			ObservedGeneration: 1, DisruptionsAllowed: allowed, DesiredHealthy: desired, CurrentHealthy: desired, ExpectedPods: expected,
		},
	}
}

func web(name string) drain.Pod {
	return drain.Pod{Ref: drain.Ref{Namespace: "app", Name: name, UID: name}, Labels: map[string]string{"app": "web"}}
}

func watched(all ...*policyv1.PodDisruptionBudget) *budgets {
	b := newBudgets(context.Background(), nil, func() {})
	for _, p := range all {
		inNamespace{b, "app"}.put(p)
	}
	return b
}

func TestTheServerIsAskedForAsManyPodsAsABudgetHasRoomFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := watched(pdb("web", 0, 2, 4))
		first, second := web("web-1"), web("web-2")
		require.Nil(t, b.refuse(first, false), "each pod is asked for once, whatever its budget looks like: it may be unhealthy")
		require.Nil(t, b.refuse(second, false))
		require.Equal(t, []string{"app/web"}, b.refuse(first, false).PDBs)

		inNamespace{b, "app"}.put(pdb("web", 1, 2, 4))
		require.Nil(t, b.refuse(first, false))
		require.NotNil(t, b.refuse(second, false), "the one place is taken")

		time.Sleep(blockedRecheck)
		require.Nil(t, b.refuse(second, false), "the safety net")
	})
}

func TestADryRunTakesNoPlaceAndIsAnsweredHereWhereTheServerWasJustAsked(t *testing.T) {
	b := watched(pdb("web", 1, 2, 4))
	first, second := web("web-1"), web("web-2")
	require.Nil(t, b.refuse(first, true))
	require.Nil(t, b.refuse(second, true), "the one place is still there")
	require.Nil(t, b.refuse(first, false))
	require.Nil(t, b.refuse(second, true), "it may be unhealthy")
	require.Nil(t, b.refuse(second, false), "and has not been asked for by that")
	require.NotNil(t, b.refuse(second, true))
}

func TestWhyABudgetCanNeverAllow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := watched(pdb("web", 0, 1, 1))
		require.Nil(t, b.refuse(web("web-1"), false))
		blocked := b.refuse(web("web-1"), false)
		require.Contains(t, blocked.Reason, "never")
		time.Sleep(blockedRecheck)
		require.NotNil(t, b.refuse(web("web-1"), false), "it is asked again rarely")
		time.Sleep(hopelessRecheck)
		require.Nil(t, b.refuse(web("web-1"), false))
	})
	unseen := pdb("web", 0, 1, 1)
	unseen.Generation = 2
	require.Empty(t, whyNever(unseen), "its controller has not counted the latest form yet")
	require.Empty(t, whyNever(pdb("web", 0, 2, 3)))
	require.Empty(t, whyNever(pdb("web", 0, 0, 0)))
}

func TestTwoBudgetsOnOnePodAreNamed(t *testing.T) {
	b := watched(pdb("web", 1, 1, 3), pdb("frontend", 1, 1, 3))
	require.Nil(t, b.refuse(web("web-1"), false))
	require.Equal(t, []string{"app/frontend", "app/web"}, b.refuse(web("web-1"), false).PDBs)
}

func TestABudgetThatIsGoneRefusesNothing(t *testing.T) {
	b := watched(pdb("web", 0, 2, 4))
	require.Nil(t, b.refuse(web("web-1"), false))
	require.NotNil(t, b.refuse(web("web-1"), false))
	inNamespace{b, "app"}.drop(pdb("web", 0, 2, 4))
	require.Nil(t, b.refuse(web("web-1"), false))
}

func TestARefusalThatOnlyAChangeOfBudgetsEndsIsExplained(t *testing.T) {
	said := &drain.Blocked{Reason: "in the server's words"}
	require.Equal(t, said, watched().explain(web("web-1"), said), "nothing is known")
	require.Equal(t, said, watched(pdb("web", 0, 2, 4)).explain(web("web-1"), said), "the server knows best")
	require.Contains(t, watched(pdb("web", 0, 1, 1)).explain(web("web-1"), said).Reason, "never")
	several := watched(pdb("one", 1, 0, 1), pdb("two", 1, 0, 1))
	require.Equal(t, []string{"app/one", "app/two"}, several.explain(web("web-1"), said).PDBs)
}
