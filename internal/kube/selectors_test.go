package kube

import (
	"quiesce/internal/escort"
	"testing"

	"github.com/stretchr/testify/require"
)

const deploymentManifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: pgbouncer}
spec:
  replicas: 2
  selector: {matchLabels: {app: pgbouncer}, matchExpressions: [{key: track, operator: In, values: [stable]}]}
  template:
    metadata: {labels: {app: pgbouncer, track: stable, tier: pool}}
    spec: {containers: [{name: pgbouncer, image: pgbouncer}]}
---
apiVersion: v1
kind: Service
metadata: {name: pgbouncer}
spec: {selector: {app: pgbouncer}, ports: [{port: 6432}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: unselecting}
spec: {ports: [{port: 80}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: pgbouncer}
spec: {minAvailable: 1, selector: {matchLabels: {app: pgbouncer}, matchExpressions: [{key: track, operator: Exists}]}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {maxUnavailable: 0, selector: {matchLabels: {app: web}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: applies}
spec: {podSelector: {matchLabels: {tier: pool}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: lets-in}
spec:
  podSelector: {matchLabels: {app: postgres}}
  ingress: [{from: [{podSelector: {matchLabels: {app: pgbouncer}}}, {namespaceSelector: {}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: lets-out}
spec:
  podSelector: {matchLabels: {app: web}}
  egress: [{to: [{podSelector: {matchExpressions: [{key: app, operator: Exists}]}, namespaceSelector: {}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: would-apply}
spec: {podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}
`

const strictManifest = `
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: all}
spec: {maxUnavailable: 0, selector: {}}
`

func TestWhatSelectsAPodIsFound(t *testing.T) {
	s := newLabEnv(t)
	s.apply(deploymentManifest)
	pod := s.inspect(&s.awaitReady("app=pgbouncer", 2)[0])
	app := map[string]string{"app": "pgbouncer"}
	hash := "pod-template-hash"
	var around escort.Selectors
	look := func() {
		var err error
		around, err = s.client.Selectors(t.Context(), pod)
		require.NoError(t, err)
	}
	s.eventually(func() bool { look(); return around.PDBs[0].DisruptionsAllowed == 1 })
	s.apply(strictManifest) // not before: of several budgets Kubernetes tells but one that a pod has become Ready
	s.eventually(func() bool { look(); return around.PDBs[0].NeverReason != "" })

	require.Equal(t, "ReplicaSet", pod.Owner.Kind)
	require.Equal(t, &escort.Selector{
		Name: pod.Owner.Name, Labels: map[string]string{"app": "pgbouncer", hash: pod.Labels[hash]}, Keys: []string{"track"},
	}, around.Owner)
	require.Equal(t, 2, around.Replicas)
	require.Equal(t, []escort.Selector{{Name: "pgbouncer", Labels: app}}, around.Services)
	require.Equal(t, escort.Selector{Name: "all"}, around.PDBs[0].Selector)
	require.Contains(t, around.PDBs[0].NeverReason, "wants 2 healthy pods of 2")
	require.Equal(t, escort.Selector{Name: "pgbouncer", Labels: app, Keys: []string{"track"}}, around.PDBs[1].Selector)
	require.Empty(t, around.PDBs[1].NeverReason)
	require.Equal(t, []escort.Selector{
		{Name: "applies", Labels: map[string]string{"tier": "pool"}},
		{Name: "lets-in", Labels: app},
		{Name: "lets-out", Keys: []string{"app"}},
		{Name: "would-apply", Keys: []string{"tier"}},
	}, around.Policies)
}

// An escort that crashed left a pod without the label by which its owner knew it. What it was before is looked at.
func TestAPodIsLookedAtWithTheLabelsAndTheOwnerThatAreGiven(t *testing.T) {
	s := newLabEnv(t)
	s.apply(deploymentManifest)
	before := s.inspect(&s.awaitReady("app=pgbouncer", 2)[0])
	s.patch(before.Name, `{"metadata":{"labels":{"app":null}}}`)
	s.awaitReady("app=pgbouncer", 2)
	s.eventually(func() bool { return s.inspect(s.pod(before.Name)).Owner == escort.Owner{} })

	around, err := s.client.Selectors(t.Context(), s.inspect(s.pod(before.Name)))
	require.NoError(t, err)
	require.Nil(t, around.Owner)
	require.Empty(t, around.Services)
	around, err = s.client.Selectors(t.Context(), before)
	require.NoError(t, err)
	require.Equal(t, before.Owner.Name, around.Owner.Name)
	require.Len(t, around.Services, 1)
	peers, err := s.client.Peers(t.Context(), before)
	require.NoError(t, err)
	require.Len(t, peers, 2)
	require.NotContains(t, refsOf(peers), before.Ref)
}

func TestAnOwnerThatIsGoneOrAnotherOrOfAnotherKindSelectsNothing(t *testing.T) {
	s := newLabEnv(t)
	s.apply(deploymentManifest)
	pod := s.inspect(&s.awaitReady("app=pgbouncer", 2)[0])
	for _, owner := range []escort.Owner{
		{}, {"ReplicaSet", pod.Owner.Name, "another"}, {"ReplicaSet", "gone", "1"}, {"StatefulSet", "gone", "1"},
		{"DaemonSet", pod.Owner.Name, pod.Owner.UID}, {"StatefulSet.apps.kruise.io", "db", "1"},
	} {
		pod.Owner = owner
		around, err := s.client.Selectors(t.Context(), pod)
		require.NoError(t, err)
		require.Nil(t, around.Owner, "%v", owner)
		require.Zero(t, around.Replicas)
		peers, err := s.client.Peers(t.Context(), pod)
		require.NoError(t, err)
		require.Empty(t, peers)
	}
}
