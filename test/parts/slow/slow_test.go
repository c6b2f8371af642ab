package slow_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/slow"
)

const roundTrip = 50 * time.Millisecond

func TestProxy_NewConnection_TakesItsHandshakesAndOneRoundTripPerAnswer(t *testing.T) {
	var arrived time.Time
	long := strings.Repeat("answer", 1<<16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived = time.Now()
		_, _ = io.WriteString(w, long)
	}))
	t.Cleanup(server.Close)
	proxy, err := slow.Start(server.Listener.Addr().String(), roundTrip, 2)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)

	for _, handshakes := range []int{2, 0} { // the second request reuses the connection
		began := time.Now()
		response, err := client.Get("http://" + proxy.Address())
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		took := time.Since(began)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, long, string(body))
		require.GreaterOrEqual(t, arrived.Sub(began), time.Duration(handshakes)*roundTrip)
		require.GreaterOrEqual(t, took, time.Duration(handshakes+1)*roundTrip)
	}
	require.Len(t, proxy.Opened(), 1)
}

func TestProxy_Closed_EndsConnections(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	proxy, err := slow.Start(server.Listener.Addr().String(), 0, 1)
	require.NoError(t, err)
	failed := make(chan error, 1)
	go func() {
		_, err := http.Get("http://" + proxy.Address())
		failed <- err
	}()
	require.Eventually(t, func() bool { return len(proxy.Opened()) == 1 }, 10*time.Second, time.Millisecond)
	proxy.Close()
	require.Error(t, <-failed)
}
