package kube

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/test/parts/lab"
)

// sharedLab is the lab that the tests of this package share, each in a namespace of its own. Nothing is done there but with the
// rights that infra/rbac.yaml gives.
var sharedLab = sync.OnceValues(func() (*lab.Lab, error) {
	ctx := context.Background()
	l, err := lab.Start(ctx, lab.Options{})
	if err != nil {
		return nil, err
	}
	stopSharedLab = l.Stop
	if err := l.Apply(ctx, filepath.Join("..", "..", "infra", "rbac.yaml")); err != nil {
		return nil, err
	}
	return l, l.AddNodes(ctx, nodeNamed("a"), nodeNamed("b"), nodeNamed("c"))
})

// stopSharedLab stops the shared lab, if a test has started it.
var stopSharedLab = func() error { return nil }

func TestMain(m *testing.M) {
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

// labEnv is a namespace of the shared lab, and a client with the function's rights.
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
	s := &labEnv{T: t, Lab: l, client: clientInGroup(t, l, "quiesce")}
	created, err := l.Client().CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	s.namespace = created.Name
	return s
}

// clientInGroup is a client that has a group's rights.
func clientInGroup(t *testing.T, l *lab.Lab, group string) *Client {
	t.Helper()
	config := l.Admin()
	config.Impersonate = rest.ImpersonationConfig{UserName: "function", Groups: []string{group}}
	client, err := New(config)
	require.NoError(t, err)
	return client
}

// apply applies manifests in the scene's namespace.
func (s *labEnv) apply(manifests string) {
	s.Helper()
	file := filepath.Join(s.TempDir(), "manifests.yaml")
	require.NoError(s, os.WriteFile(file, []byte(manifests), 0o600))
	_, err := s.Kubectl(s.Context(), "apply", "--namespace="+s.namespace, "--filename="+file)
	require.NoError(s, err)
}

func (s *labEnv) pod(name string) *corev1.Pod {
	s.Helper()
	pod, err := s.Client().CoreV1().Pods(s.namespace).Get(s.Context(), name, metav1.GetOptions{})
	require.NoError(s, err)
	return pod
}

// awaitReady are the Ready pods with these labels, when there are n.
func (s *labEnv) awaitReady(selector string, n int) (pods []corev1.Pod) {
	s.Helper()
	s.eventually(func() bool {
		found, err := s.Client().CoreV1().Pods(s.namespace).List(s.Context(), metav1.ListOptions{LabelSelector: selector})
		require.NoError(s, err)
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

// inspect looks at a pod that is there.
func (s *labEnv) inspect(p *corev1.Pod) escort.Pod {
	s.Helper()
	found, err := s.client.Inspect(s.Context(), refOf(p))
	require.NoError(s, err)
	require.NotNil(s, found)
	return *found
}

func (s *labEnv) patch(name, patch string) {
	s.Helper()
	_, err := s.Client().CoreV1().Pods(s.namespace).Patch(
		s.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	require.NoError(s, err)
}

func (s *labEnv) eventually(condition func() bool) {
	s.Helper()
	require.Eventually(s, condition, waitTimeout, pollInterval)
}

func refOf(p *corev1.Pod) drain.Ref {
	return drain.Ref{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)}
}
