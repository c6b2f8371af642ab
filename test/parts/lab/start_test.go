package lab

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func TestAuthenticator_InvalidToken_AskedAndDenies(t *testing.T) {
	Require(t)
	sts := httptest.NewTLSServer(http.NotFoundHandler()) // this test's tokens fail before STS is asked
	defer sts.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sts.Certificate().Raw})
	require.NoError(t, os.WriteFile(ca, certificate, 0o600))
	l, err := Start(t.Context(), Options{
		STSProxy: sts.URL, STSCAFile: ca,
		Roles: []Role{{ARN: "arn:aws:iam::123456789012:role/drainer", Username: "quiesce:{{SessionName}}", Groups: []string{"quiesce"}}},
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Stop()) }()

	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: l.Endpoint(), TLSClientConfig: rest.TLSClientConfig{CAData: l.CA()}, BearerToken: "k8s-aws-v1.invalid",
	})
	require.NoError(t, err)
	_, err = client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsUnauthorized(err), "%v", err)
	log, err := os.ReadFile(l.Path("aws-iam-authenticator.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), "access denied")
	requireWithoutAddressIsKnown(t, l)
}

// requireWithoutAddressIsKnown requires that the API server selects pods without an address: one with a node that does not exist.
func requireWithoutAddressIsKnown(t *testing.T, l *Lab) {
	t.Helper()
	for name, node := range map[string]string{"assigned": "nowhere", "waiting": ""} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "app", Image: "app"}}}}
		_, err := l.Client().CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	found, err := l.podsWithoutAddress(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, "assigned", found[0].Name)
}

func TestStart_ComponentFails_ErrorHasLog(t *testing.T) {
	Require(t)
	l, err := prepare(t.Context(), Options{}.withDefaults())
	require.NoError(t, err)
	defer func() { require.NoError(t, l.reaper.end()) }()
	err = l.run(t.Context(), "etcd", []string{"--no-such-flag"}, nil, func(context.Context) error { return os.ErrNotExist })
	require.ErrorContains(t, err, "etcd ended by itself")
	require.ErrorContains(t, err, "no-such-flag")
}
