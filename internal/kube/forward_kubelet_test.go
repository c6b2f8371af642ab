package kube

import (
	"net"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/test/parts/images"
	"quiesce/test/parts/lab"
)

const consoleManifest = `
apiVersion: v1
kind: Secret
metadata: {name: other, namespace: db}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: pgbouncer, namespace: db}
data:
  pgbouncer.ini: |
    [databases]
    [pgbouncer]
    listen_addr = 0.0.0.0
    listen_port = 6432
    unix_socket_dir =
    auth_type = any
---
apiVersion: v1
kind: Pod
metadata: {name: pgbouncer, namespace: db, labels: {app: pgbouncer}}
spec:
  nodeName: node-a
  containers:
    - name: pgbouncer
      image: localhost/pgbouncer:1.24
      imagePullPolicy: Never
      command: [pgbouncer, /etc/pgbouncer/pgbouncer.ini]
      readinessProbe: {tcpSocket: {port: 6432}, periodSeconds: 1}
      volumeMounts: [{name: config, mountPath: /etc/pgbouncer}]
  volumes: [{name: config, configMap: {name: pgbouncer}}]
`

// newKubeletEnv returns an environment in a lab of its own, with a real pgbouncer and the permissions of both manifests in
// infra.
func newKubeletEnv(t *testing.T) *labEnv {
	t.Helper()
	lab.RequireMachines(t)
	image, err := images.Path("pgbouncer", "1.24")
	require.NoError(t, err)
	l, err := lab.Start(t.Context(), lab.Options{Machines: true, Images: []string{image}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Stop()) })
	require.NoError(t, l.AddNodes(t.Context(), nodeNamed("a")))
	e := &labEnv{T: t, Lab: l, client: clientInGroup(t, l, "quiesce"), namespace: "db"}
	for _, args := range [][]string{ // a bare pod is refused until its namespace has a ServiceAccount
		{"create", "namespace", e.namespace},
		{"wait", "--for=create", "serviceaccount/default", "--namespace", e.namespace, "--timeout=1m"},
	} {
		_, err := l.Kubectl(t.Context(), args...)
		require.NoError(t, err)
	}
	e.apply(consoleManifest)
	for _, file := range []string{"rbac.yaml", "rbac-console.yaml"} {
		require.NoError(t, l.Apply(t.Context(), filepath.Join("..", "..", "infra", file)))
	}
	e.awaitReady("app=pgbouncer", 1)
	return e
}

func TestForward_RealKubelet_OnlyTheConsoleIsReached(t *testing.T) {
	e := newKubeletEnv(t)
	t.Run("a pooler is reached through the API server", func(t *testing.T) { requirePgbouncer(t, e.client) })
	t.Run("a closed port has an error of its own", e.requireClosedPort)
	t.Run("a pod that is gone cannot be forwarded to", func(t *testing.T) {
		_, err := e.client.Forward(t.Context(), "db", "gone", 6432)
		require.ErrorContains(t, err, `pods "gone" not found`)
	})
	t.Run("only the console and its Secret are reachable", e.requireOnlyConsole)
	t.Run("with the verb create alone, SPDY is used", func(t *testing.T) { requirePgbouncer(t, e.clientWithVerb(t, "create")) })
	t.Run("without the verb create, nothing is forwarded", func(t *testing.T) {
		_, err := e.clientWithVerb(t, "get").Forward(t.Context(), "db", "pgbouncer", 6432)
		require.ErrorContains(t, err, `cannot create resource "pods/portforward"`)
	})
}

// requirePgbouncer asks for TLS. A pooler without a certificate answers N
// (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL).
func requirePgbouncer(t *testing.T, client *Client) {
	t.Helper()
	var conn net.Conn
	require.Eventually(t, func() (opened bool) {
		var err error
		conn, err = client.Forward(t.Context(), "db", "pgbouncer", 6432)
		return err == nil
	}, waitTimeout, pollInterval, "permissions take a moment to be in force")
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(waitTimeout)))
	_, err := conn.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47})
	require.NoError(t, err)
	answer := make([]byte, 1)
	_, err = conn.Read(answer)
	require.NoError(t, err)
	require.Equal(t, "N", string(answer))
}

func (e *labEnv) requireClosedPort(t *testing.T) {
	conn, err := e.client.Forward(t.Context(), "db", "pgbouncer", 6433)
	require.NoError(t, err, "the API server does not check ports")
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(waitTimeout)) // fails if the connection has ended already
	_, err = conn.Read(make([]byte, 1))
	require.ErrorContains(t, err, "connection refused")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

func (e *labEnv) requireOnlyConsole(t *testing.T) {
	name := e.consoleSecret()
	_, err := e.Client().CoreV1().Secrets("db").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"username": "drainer"},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	data, err := e.client.Secret(t.Context(), "db", name)
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"username": []byte("drainer")}, data)
	_, err = e.client.Secret(t.Context(), "db", "other")
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	_, err = e.client.Forward(t.Context(), "kube-system", "pgbouncer", 6432)
	require.ErrorContains(t, err, "forbidden")
}

// consoleSecret returns the name of the one Secret that infra/rbac-console.yaml allows to read.
func (e *labEnv) consoleSecret() string {
	e.Helper()
	roles, err := e.Client().RbacV1().Roles("db").List(e.Context(), metav1.ListOptions{})
	require.NoError(e, err)
	var names []string
	for _, role := range roles.Items {
		for _, rule := range role.Rules {
			if slices.Contains(rule.Resources, "secrets") {
				names = append(names, rule.ResourceNames...)
			}
		}
	}
	require.Len(e, names, 1)
	return names[0]
}

// clientWithVerb returns a client that may do only this with pods/portforward.
func (e *labEnv) clientWithVerb(t *testing.T, verb string) *Client {
	t.Helper()
	group, rbac := "only-"+verb, e.Client().RbacV1()
	_, err := rbac.Roles("db").Create(t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: group},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods/portforward"}, Verbs: []string{verb}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = rbac.RoleBindings("db").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: group},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: group},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: group}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	return clientInGroup(t, e.Lab, group)
}
