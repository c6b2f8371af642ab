package kube

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const servedManifest = `
apiVersion: v1
kind: Service
metadata: {name: pgbouncer}
spec: {selector: {app: pgbouncer}, ports: [{port: 6432}]}
---
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: pgbouncer}, annotations: {lab/stop-after: 60s}}
spec: {terminationGracePeriodSeconds: 60, containers: [{name: pgbouncer, image: pgbouncer}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, labels: {app: pgbouncer}, annotations: {lab/stop-after: 60s}}
spec: {terminationGracePeriodSeconds: 60, containers: [{name: pgbouncer, image: pgbouncer}]}
`

func (e *labEnv) awaitServing(serving bool, p *corev1.Pod) {
	e.Helper()
	e.eventually(func() bool {
		now, err := e.client.Serving(e.Context(), refOf(p))
		require.NoError(e, err)
		return now == serving
	})
}

func TestServing_LabelRemoved_False(t *testing.T) {
	e := newLabEnv(t)
	e.apply(servedManifest)
	e.awaitReady("app=pgbouncer", 2)
	one := e.pod("one")
	e.awaitServing(true, one)
	e.patch("one", `{"metadata":{"labels":{"app":null}}}`)
	e.awaitServing(false, one)
	e.awaitServing(true, e.pod("other"))
}

// If all endpoints of a Service are terminating, those that still serve get the connections.
func TestServing_Terminating_OnlyWithoutReadyPod(t *testing.T) {
	e := newLabEnv(t)
	e.apply(servedManifest)
	e.awaitReady("app=pgbouncer", 2)
	one, other := e.pod("one"), e.pod("other")
	e.awaitServing(true, one)
	e.awaitServing(true, other)
	stop := func(name string) {
		require.NoError(t, e.Client().CoreV1().Pods(e.namespace).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	stop("one")
	e.awaitServing(false, one)
	stop("other")
	e.awaitServing(true, one)
	e.awaitServing(true, other)
}
