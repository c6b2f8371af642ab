package kube

import (
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
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

func TestSelectors_Deployment_FindsAllSelectors(t *testing.T) {
	e := newLabEnv(t)
	e.apply(deploymentManifest)
	pod := e.inspect(&e.awaitReady("app=pgbouncer", 2)[0])
	app := map[string]string{"app": "pgbouncer"}
	hash := "pod-template-hash"
	var selectors escort.Selectors
	read := func() {
		var err error
		selectors, err = e.client.Selectors(t.Context(), pod)
		require.NoError(t, err)
	}
	e.eventually(func() bool { read(); return selectors.PDBs[0].DisruptionsAllowed == 1 })
	e.apply(strictManifest) // not earlier: if several PDBs select a pod, Kubernetes updates only one of them when it is Ready
	e.eventually(func() bool { read(); return selectors.PDBs[0].NeverReason != "" })

	require.Equal(t, "ReplicaSet", pod.Owner.Kind)
	require.Equal(t, &escort.Selector{
		Name: pod.Owner.Name, Labels: map[string]string{"app": "pgbouncer", hash: pod.Labels[hash]}, Keys: []string{"track"},
	}, selectors.Owner)
	require.Equal(t, 2, selectors.Replicas)
	require.Equal(t, []escort.Selector{{Name: "pgbouncer", Labels: app}}, selectors.Services)
	require.Equal(t, escort.Selector{Name: "all"}, selectors.PDBs[0].Selector)
	require.Contains(t, selectors.PDBs[0].NeverReason, "wants 2 healthy pods of 2")
	require.Equal(t, escort.Selector{Name: "pgbouncer", Labels: app, Keys: []string{"track"}}, selectors.PDBs[1].Selector)
	require.Empty(t, selectors.PDBs[1].NeverReason)
	require.Equal(t, []escort.Selector{
		{Name: "applies", Labels: map[string]string{"tier": "pool"}},
		{Name: "lets-in", Labels: app},
		{Name: "lets-out", Keys: []string{"app"}},
		{Name: "would-apply", Keys: []string{"tier"}},
	}, selectors.Policies)
}

// An interrupted escort may have removed the label by which the owner selects the pod. Then Selectors gets the pod as it was
// before.
func TestSelectors_GivenLabelsAndOwner_AreUsed(t *testing.T) {
	e := newLabEnv(t)
	e.apply(deploymentManifest)
	before := e.inspect(&e.awaitReady("app=pgbouncer", 2)[0])
	e.patch(before.Name, `{"metadata":{"labels":{"app":null}}}`)
	e.awaitReady("app=pgbouncer", 2)
	e.eventually(func() bool { return e.inspect(e.pod(before.Name)).Owner == escort.Owner{} })

	selectors, err := e.client.Selectors(t.Context(), e.inspect(e.pod(before.Name)))
	require.NoError(t, err)
	require.Nil(t, selectors.Owner)
	require.Empty(t, selectors.Services)
	selectors, err = e.client.Selectors(t.Context(), before)
	require.NoError(t, err)
	require.Equal(t, before.Owner.Name, selectors.Owner.Name)
	require.Len(t, selectors.Services, 1)
	peers, err := e.client.Peers(t.Context(), before)
	require.NoError(t, err)
	require.Len(t, peers, 2)
	require.NotContains(t, refsOf(peers), before.Ref)
}

func TestSelectors_OwnerGoneOrOtherKind_FindsNone(t *testing.T) {
	e := newLabEnv(t)
	e.apply(deploymentManifest)
	pod := e.inspect(&e.awaitReady("app=pgbouncer", 2)[0])
	for _, owner := range []escort.Owner{
		{},
		{Kind: "ReplicaSet", Name: pod.Owner.Name, UID: "another"},
		{Kind: "ReplicaSet", Name: "gone", UID: "1"},
		{Kind: "StatefulSet", Name: "gone", UID: "1"},
		{Kind: "DaemonSet", Name: pod.Owner.Name, UID: pod.Owner.UID},
		{Kind: "StatefulSet.apps.kruise.io", Name: "db", UID: "1"},
	} {
		pod.Owner = owner
		selectors, err := e.client.Selectors(t.Context(), pod)
		require.NoError(t, err)
		require.Nil(t, selectors.Owner, "%v", owner)
		require.Zero(t, selectors.Replicas)
		peers, err := e.client.Peers(t.Context(), pod)
		require.NoError(t, err)
		require.Empty(t, peers)
	}
}
