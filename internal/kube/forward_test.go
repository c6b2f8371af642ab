package kube

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	constants "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"quiesce/test/parts/ports"
)

const (
	// waitTimeout bounds waits that take milliseconds; only broken code reaches it.
	waitTimeout = 20 * time.Second
	// pollInterval is the time between two checks of a condition. Most of them ask an API server.
	pollInterval = 20 * time.Millisecond

	forwardPath = "/api/v1/namespaces/db/pods/pgbouncer-0/portforward"
)

// forwarder fakes port-forwarding of an API server and a kubelet. The pod's ports are ports of the loopback interface.
type forwarder struct {
	*httptest.Server
	upgrade func(http.ResponseWriter, *http.Request) httpstream.Connection // nil: supports websockets and SPDY

	mu          sync.Mutex
	methodsSeen []string // of the requests
	upgraded    []httpstream.Connection
}

func newForwarder(t *testing.T) (*forwarder, *Client) {
	t.Helper()
	f := &forwarder{}
	f.Server = httptest.NewTLSServer(f)
	t.Cleanup(func() {
		for _, connection := range f.connections() {
			_ = connection.Close()
		}
		f.Close()
	})
	client, err := New(&rest.Config{
		Host:            f.URL,
		TLSClientConfig: rest.TLSClientConfig{CAData: authorityOf(f.Server)},
		WrapTransport: func(next http.RoundTripper) http.RoundTripper {
			return authenticated{next}
		},
	})
	require.NoError(t, err)
	return f, client
}

// authenticated adds a token in a wrapped transport, as the function does, whose tokens are renewed.
type authenticated struct{ next http.RoundTripper }

func (a authenticated) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.Header.Set("Authorization", "Bearer token")
	return a.next.RoundTrip(request)
}

func (f *forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.methodsSeen = append(f.methodsSeen, r.Method)
	f.mu.Unlock()
	if r.URL.Path != forwardPath || r.Header.Get("Authorization") != "Bearer token" {
		http.Error(w, "no such pod, or no such user", http.StatusForbidden)
		return
	}
	upgrade := upgradeEither
	if f.upgrade != nil {
		upgrade = f.upgrade
	}
	if connection := upgrade(w, r); connection != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.upgraded = append(f.upgraded, connection)
	}
}

func (f *forwarder) connections() []httpstream.Connection {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.upgraded)
}

func (f *forwarder) methods() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.methodsSeen)
}

func upgradeEither(w http.ResponseWriter, r *http.Request) httpstream.Connection {
	if websocket.IsWebSocketUpgrade(r) {
		return upgradeWebsocket(w, r)
	}
	return upgradeSPDY(w, r)
}

func upgradeWebsocket(w http.ResponseWriter, r *http.Request) httpstream.Connection {
	upgrader := websocket.Upgrader{Subprotocols: []string{constants.WebsocketsSPDYTunnelingPortForwardV1}}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil
	}
	connection, err := spdy.NewServerConnection(portforward.NewTunnelingConnection("server", conn), newKubelet())
	if err != nil {
		return nil
	}
	return connection
}

func upgradeSPDY(w http.ResponseWriter, r *http.Request) httpstream.Connection {
	if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
		return nil
	}
	return spdy.NewResponseUpgrader().UpgradeResponse(w, r, newKubelet())
}

func onlySPDY(w http.ResponseWriter, r *http.Request) httpstream.Connection {
	if websocket.IsWebSocketUpgrade(r) {
		http.Error(w, "websockets are not supported", http.StatusBadRequest)
		return nil
	}
	return upgradeSPDY(w, r)
}

// newKubelet forwards as a kubelet does: it writes an error to the first stream, then closes both.
func newKubelet() httpstream.NewStreamHandler {
	var reason httpstream.Stream
	return func(stream httpstream.Stream, replied <-chan struct{}) error {
		if stream.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
			reason = stream
			return nil
		}
		go func(reason httpstream.Stream) {
			<-replied
			if err := serveStream(stream); err != nil {
				_, _ = io.WriteString(reason, err.Error())
			}
			_ = reason.Close()
			_ = stream.Close()
		}(reason)
		return nil
	}
}

func serveStream(stream httpstream.Stream) error {
	conn, err := net.Dial("tcp", "127.0.0.1:"+stream.Headers().Get(corev1.PortHeader))
	if err != nil {
		return errors.New("nothing listens on that port")
	}
	defer conn.Close()
	go func() {
		_, _ = io.Copy(conn, stream)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(stream, conn)
	return nil
}

// listen starts a pod's process, which calls serve for each connection, and returns its port.
func listen(t *testing.T, serve func(net.Conn)) (port int) {
	t.Helper()
	_, text, err := net.SplitHostPort(ports.Serve(t, serve))
	require.NoError(t, err)
	port, err = strconv.Atoi(text)
	require.NoError(t, err)
	return port
}

func echo(conn net.Conn) { _, _ = io.Copy(conn, conn) }

func forward(t *testing.T, client *Client, port int) net.Conn {
	t.Helper()
	conn, err := client.Forward(t.Context(), "db", "pgbouncer-0", port)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(waitTimeout)) // fails if the connection has ended already
	return conn
}

func requireEcho(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	_, err := io.WriteString(conn, text)
	require.NoError(t, err)
	answer := make([]byte, len(text))
	_, err = io.ReadFull(conn, answer)
	require.NoError(t, err)
	require.Equal(t, text, string(answer))
}

func TestForward_PodListens_CarriesData(t *testing.T) {
	server, client := newForwarder(t)
	conn := forward(t, client, listen(t, echo))
	requireEcho(t, conn, "SHOW VERSION")
	requireEcho(t, conn, strings.Repeat("row ", 1<<16))
	require.Equal(t, []string{http.MethodGet}, server.methods())
}

func TestForward_NoWebsockets_UsesSPDY(t *testing.T) {
	server, client := newForwarder(t)
	server.upgrade = onlySPDY
	requireEcho(t, forward(t, client, listen(t, echo)), "SHOW VERSION")
	require.Equal(t, []string{http.MethodGet, http.MethodPost}, server.methods())
}

func TestForward_PortClosed_ReadReturnsKubeletReason(t *testing.T) {
	server, client := newForwarder(t)
	for name, upgrade := range map[string]func(http.ResponseWriter, *http.Request) httpstream.Connection{
		"websocket": upgradeEither, "SPDY": onlySPDY,
	} {
		server.upgrade = upgrade
		conn := forward(t, client, 1)
		_, err := conn.Read(make([]byte, 1))
		require.EqualError(t, err, "nothing listens on that port", name)
		_, err = conn.Write([]byte("SHOW VERSION"))
		require.EqualError(t, err, "nothing listens on that port", name)
	}
}

func TestForward_PodCloses_ReadsAllDataThenEOF(t *testing.T) {
	_, client := newForwarder(t)
	sent := strings.Repeat("row ", 1<<16)
	conn := forward(t, client, listen(t, func(conn net.Conn) { _, _ = io.WriteString(conn, sent) }))
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, len(sent), len(got))
}

func TestForward_ReadDeadline_ConnectionStaysUsable(t *testing.T) {
	_, client := newForwarder(t)
	conn := forward(t, client, listen(t, echo))
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(pollInterval)))
	_, err := conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, conn.SetDeadline(time.Now().Add(waitTimeout)))
	requireEcho(t, conn, "SHOW VERSION")
}

func TestForward_Closed_ClosesPodAndServerConnections(t *testing.T) {
	server, client := newForwarder(t)
	received := make(chan string, 1)
	conn := forward(t, client, listen(t, func(conn net.Conn) {
		all, _ := io.ReadAll(conn)
		received <- string(all)
	}))
	_, err := io.WriteString(conn, "X")
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	select {
	case all := <-received:
		require.Equal(t, "X", all)
	case <-time.After(waitTimeout):
		t.Fatal("the pod's connection is still open")
	}
	require.Eventually(t, func() bool {
		connections := server.connections()
		return len(connections) == 1 && closed(connections[0])
	}, waitTimeout, pollInterval)
}

func closed(connection httpstream.Connection) bool {
	select {
	case <-connection.CloseChan():
		return true
	default:
		return false
	}
}

func TestForward_ContextEnds_LeavesNoConnection(t *testing.T) {
	server, client := newForwarder(t)
	requested, release := make(chan struct{}), make(chan struct{})
	server.upgrade = func(w http.ResponseWriter, r *http.Request) httpstream.Connection {
		close(requested)
		<-release
		return upgradeEither(w, r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-requested
		cancel()
	}()
	_, err := client.Forward(ctx, "db", "pgbouncer-0", 6432)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "forward port 6432 of pod db/pgbouncer-0")
	close(release)
	require.Eventually(t, func() bool {
		connections := server.connections()
		return len(connections) == 1 && closed(connections[0])
	}, waitTimeout, pollInterval)
}

func TestForward_Forbidden_ErrorSaysWhy(t *testing.T) {
	_, client := newForwarder(t)
	_, err := client.Forward(t.Context(), "db", "another", 6432)
	require.ErrorContains(t, err, "forward port 6432 of pod db/another: ")
	require.ErrorContains(t, err, "no such pod, or no such user")
}

// A console behind it is not taken for one that has stopped.
func TestForward_ServerRefusesConnections_NotTakenForThePods(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	client, err := New(&rest.Config{Host: server.URL})
	require.NoError(t, err)
	_, err = client.Forward(t.Context(), "db", "pgbouncer-0", 6432)
	require.ErrorContains(t, err, syscall.ECONNREFUSED.Error())
	require.NotErrorIs(t, err, syscall.ECONNREFUSED)
}
