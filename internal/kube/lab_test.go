package kube

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/test/parts/lab"
)

// sharedLab is the lab of all tests in this package; each test has its own namespace. Its clients have only the permissions of
// infra/rbac.yaml.
var sharedLab = sync.OnceValues(func() (*lab.Lab, error) {
	ctx := context.Background()
	l, err := lab.Start(ctx, lab.Options{})
	if err != nil {
		return nil, err
	}
	stopSharedLab = l.Stop
	db := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "db"}} // of the templates
	if _, err := l.Client().CoreV1().Namespaces().Create(ctx, db, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	for _, file := range []string{"rbac.yaml", "rbac-postgres-patroni.yaml", "rbac-postgres-cnpg.yaml"} {
		if err := l.Apply(ctx, filepath.Join("..", "..", "infra", file)); err != nil {
			return nil, err
		}
	}
	return l, l.AddNodes(ctx, nodeNamed("a"), nodeNamed("b"), nodeNamed("c"))
})

// stopSharedLab stops the shared lab, if a test has started it.
var stopSharedLab = func() error { return nil }

// clientLog is where client-go logs to. Its logger is set once: watches of a test that is over may still read it.
var clientLog switchedLog

func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.NewJSONHandler(&clientLog, nil)))
	code := m.Run()
	if err := stopSharedLab(); err != nil {
		fmt.Println(err)
		code = 1
	}
	os.Exit(code)
}

func nodeNamed(name string) lab.Node {
	return lab.Node{Name: "node-" + name, InstanceID: "i-" + name, Zone: "us-east-1a"}
}

// labEnv is a namespace of the shared lab, and a client with the function's permissions.
type labEnv struct {
	*testing.T
	*lab.Lab
	client    *Client
	namespace string
}

func newLabEnv(t *testing.T) *labEnv {
	t.Helper()
	lab.Require(t)
	l, err := sharedLab()
	require.NoError(t, err)
	e := &labEnv{T: t, Lab: l, client: clientInGroup(t, l, "quiesce")}
	created, err := l.Client().CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	e.namespace = created.Name
	return e
}

// clientInGroup returns a client with the permissions of a group.
func clientInGroup(t *testing.T, l *lab.Lab, group string) *Client {
	t.Helper()
	config := l.Admin()
	config.Impersonate = rest.ImpersonationConfig{UserName: "function", Groups: []string{group}}
	client, err := New(config)
	require.NoError(t, err)
	return client
}

// apply applies manifests in the namespace.
func (e *labEnv) apply(manifests string) {
	e.Helper()
	file := filepath.Join(e.TempDir(), "manifests.yaml")
	require.NoError(e, os.WriteFile(file, []byte(manifests), 0o600))
	_, err := e.Kubectl(e.Context(), "apply", "--namespace="+e.namespace, "--filename="+file)
	require.NoError(e, err)
}

func (e *labEnv) pod(name string) *corev1.Pod {
	e.Helper()
	pod, err := e.Client().CoreV1().Pods(e.namespace).Get(e.Context(), name, metav1.GetOptions{})
	require.NoError(e, err)
	return pod
}

// awaitReady waits for n Ready pods with these labels and returns them.
func (e *labEnv) awaitReady(selector string, n int) (pods []corev1.Pod) {
	e.Helper()
	e.eventually(func() bool {
		found, err := e.Client().CoreV1().Pods(e.namespace).List(e.Context(), metav1.ListOptions{LabelSelector: selector})
		require.NoError(e, err)
		pods = nil
		for _, p := range found.Items {
			if isReady(&p) {
				pods = append(pods, p)
			}
		}
		return len(pods) == n
	})
	return pods
}

// inspect returns a pod that exists.
func (e *labEnv) inspect(p *corev1.Pod) escort.Pod {
	e.Helper()
	found, err := e.client.Inspect(e.Context(), refOf(p))
	require.NoError(e, err)
	require.NotNil(e, found)
	return *found
}

func (e *labEnv) patch(name, patch string) {
	e.Helper()
	_, err := e.Client().CoreV1().Pods(e.namespace).Patch(
		e.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	require.NoError(e, err)
}

func (e *labEnv) eventually(condition func() bool) {
	e.Helper()
	require.Eventually(e, condition, waitTimeout, pollInterval)
}

func refOf(p *corev1.Pod) drain.Ref {
	return drain.Ref{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)}
}
