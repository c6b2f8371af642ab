package kube

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"quiesce/test/parts/bubble"
)

func TestClient_RequestsAtOnce_OneConnection(t *testing.T) {
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }))
	server.EnableHTTP2 = true
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	client, err := New(&rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	require.NoError(t, err)
	var all sync.WaitGroup
	failures := make([]error, 20)
	for i := range failures {
		all.Go(func() { _, failures[i] = client.NodeByName(t.Context(), "a") })
	}
	all.Wait()
	require.NoError(t, errors.Join(failures...))
	require.EqualValues(t, 1, connections.Load())
}

// roundTripper is a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A server that accepts and never answers must not hold requests that have given up.
func TestOneHandshake_NoConnection_WaitingRequestEndsWithItsContext(t *testing.T) {
	begun := make(chan struct{})
	gate := newOneHandshake(roundTripper(func(r *http.Request) (*http.Response, error) {
		close(begun)
		<-r.Context().Done()
		return nil, r.Context().Err()
	}))
	first, endFirst := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := gate.RoundTrip(httptest.NewRequestWithContext(first, http.MethodGet, "/", nil))
		ended <- err
	}()
	<-begun
	second, endSecond := context.WithCancel(t.Context())
	endSecond()
	_, err := gate.RoundTrip(httptest.NewRequestWithContext(second, http.MethodGet, "/", nil))
	require.ErrorIs(t, err, context.Canceled)
	endFirst()
	require.ErrorIs(t, <-ended, context.Canceled)
}

// One address of the API server does not answer. The next request finds another.
func TestOneHandshake_ConnectionHangs_NextRequestGoesOnSoon(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		requests := 0
		gate := newOneHandshake(roundTripper(func(r *http.Request) (*http.Response, error) {
			if requests++; requests == 1 {
				<-r.Context().Done()
			}
			return nil, r.Context().Err()
		}))
		first, endFirst := context.WithCancel(t.Context())
		defer endFirst()
		go gate.RoundTrip(httptest.NewRequestWithContext(first, http.MethodGet, "/", nil))
		synctest.Wait()
		began := time.Now()
		_, err := gate.RoundTrip(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
		require.NoError(t, err)
		require.Equal(t, handshakeWait, time.Since(began))
	})
}

// The connection is open before the first request of a drain.
func TestConnector_Connects_OpensConnection(t *testing.T) {
	asked := make(chan string, 1)
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
	t.Cleanup(server.Close)
	_, err := Connector(func(context.Context) (*rest.Config, error) {
		return &rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, nil
	}, true)(t.Context())
	require.NoError(t, err)
	require.Equal(t, "/apis/coordination.k8s.io/v1/namespaces/quiesce/leases", <-asked)
}
