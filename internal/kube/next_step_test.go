package kube

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
)

// answers returns a client of a server that answers everything with this status.
func answers(t *testing.T, status int) (*Client, *httptest.Server) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	t.Cleanup(server.Close)
	client, err := New(&rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	require.NoError(t, err)
	return client, server
}

func TestNextStep_ErrorOfTheAPIServer_SaysWhatToDo(t *testing.T) {
	for status, want := range map[int]string{
		http.StatusUnauthorized: "access entry", http.StatusForbidden: "kubectl apply -f infra/rbac.yaml", http.StatusConflict: "",
	} {
		client, _ := answers(t, status)
		_, err := client.Leases(t.Context())
		require.Error(t, err)
		require.Contains(t, NextStep(err), want)
		require.Equal(t, want == "", NextStep(err) == "")
	}
	require.Empty(t, NextStep(errors.New("another error")))
}

func TestNextStep_NoConnection_SaysWhatToDo(t *testing.T) {
	client, server := answers(t, http.StatusOK)
	server.Close()
	_, err := client.Leases(t.Context())
	require.Contains(t, NextStep(err), "open the way to the API server")

	_, server = answers(t, http.StatusOK)
	client, err = New(&rest.Config{Host: server.URL}) // trusts the authorities of the system
	require.NoError(t, err)
	_, err = client.Leases(t.Context())
	require.Contains(t, NextStep(err), "stack.clusterCA")

	client, err = New(&rest.Config{Host: "https://nowhere.invalid", Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "nowhere.invalid", IsNotFound: true}}
	}})
	require.NoError(t, err)
	_, err = client.Leases(t.Context())
	require.Contains(t, NextStep(err), "let the function resolve the API server's name")
}
