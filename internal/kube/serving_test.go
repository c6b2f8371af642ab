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

func (s *labEnv) awaitServing(serving bool, p *corev1.Pod) {
	s.Helper()
	s.eventually(func() bool {
		now, err := s.client.Serving(s.Context(), refOf(p))
		require.NoError(s, err)
		return now == serving
	})
}

func TestAPodServesUntilNoServiceSelectsIt(t *testing.T) {
	s := newLabEnv(t)
	s.apply(servedManifest)
	s.awaitReady("app=pgbouncer", 2)
	one := s.pod("one")
	s.awaitServing(true, one)
	s.patch("one", `{"metadata":{"labels":{"app":null}}}`)
	s.awaitServing(false, one)
	s.awaitServing(true, s.pod("other"))
}

// Where all endpoints stop, those that still can are sent to.
func TestAPodThatStopsServesOnlyAsALastResort(t *testing.T) {
	s := newLabEnv(t)
	s.apply(servedManifest)
	s.awaitReady("app=pgbouncer", 2)
	one, other := s.pod("one"), s.pod("other")
	s.awaitServing(true, one)
	s.awaitServing(true, other)
	stop := func(name string) {
		require.NoError(t, s.Client().CoreV1().Pods(s.namespace).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	stop("one")
	s.awaitServing(false, one)
	stop("other")
	s.awaitServing(true, one)
	s.awaitServing(true, other)
}
