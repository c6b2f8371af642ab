package pgbouncer

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// fakeServer serves each connection with serve, for answers that no real pgbouncer gives.
func fakeServer(t *testing.T, serve func(net.Conn)) Target {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() { listener.Close(); <-stopped })
	return Target{Dial: dialer(listener.Addr().String()), TLS: TLSDisable, User: admin.Name, Password: admin.Password}
}

// startup reads the startup message of a client.
func startup(conn net.Conn) (*pgproto3.Backend, *pgproto3.StartupMessage) {
	backend := pgproto3.NewBackend(conn, conn)
	message, _ := backend.ReceiveStartupMessage()
	startup, _ := message.(*pgproto3.StartupMessage)
	return backend, startup
}

func TestOpen_CleartextRequested_SendsNoPassword(t *testing.T) {
	received := make(chan []byte, 1)
	target := fakeServer(t, func(conn net.Conn) {
		backend, _ := startup(conn)
		backend.Send(&pgproto3.AuthenticationCleartextPassword{})
		_ = backend.Flush()
		rest, _ := io.ReadAll(conn)
		received <- rest
	})
	require.ErrorIs(t, requireOpenFails(t, target), ErrCleartext)
	require.Empty(t, <-received)
}

func TestOpen_StartupMessage_HasOnlyRequiredParameters(t *testing.T) {
	received := make(chan map[string]string, 1)
	target := fakeServer(t, func(conn net.Conn) {
		_, message := startup(conn)
		received <- message.Parameters
	})
	require.ErrorIs(t, requireOpenFails(t, target), ErrUnreachable)
	require.Equal(t, map[string]string{
		"user": admin.Name, "database": "pgbouncer", "application_name": "quiesce",
	}, <-received)
}

func TestOpen_OtherProtocol_NotPgbouncer(t *testing.T) {
	for _, greeting := range []string{
		"HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH_9.2p1\r\n", "-ERR unknown command\r\n",
		"R\x7f\xff\xff\xff" + strings.Repeat("x", 100), "R\x00\x00\x00\x03" + strings.Repeat("x", 100),
	} {
		target := fakeServer(t, func(conn net.Conn) {
			_, _ = io.WriteString(conn, greeting)
			_, _ = io.ReadAll(conn)
		})
		require.ErrorIs(t, requireOpenFails(t, target), ErrNotPgbouncer, greeting)
		target.TLS = TLSPrefer
		if !strings.HasPrefix(greeting, "S") { // S accepts TLS
			require.ErrorIs(t, requireOpenFails(t, target), ErrNotPgbouncer, greeting)
		}
	}
}

func TestOpen_HTTPServer_Unreachable(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	dial := dialer(server.Listener.Addr().String())
	target := Target{TLS: TLSDisable, User: admin.Name, Password: admin.Password, Dial: func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		return &whenRead{Conn: conn, then: cancel}, err
	}}
	_, err := Open(ctx, target)
	require.ErrorIs(t, err, ErrUnreachable, "the server waits for the rest of a request")
}

func TestOpen_SilentPort_EndsWithContext(t *testing.T) {
	for _, mode := range []TLSMode{TLSDisable, TLSRequire} {
		ctx, cancel := context.WithCancel(t.Context())
		target := fakeServer(t, func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1))
			cancel()
			_, _ = io.ReadAll(conn)
		})
		target.TLS = mode
		_, err := Open(ctx, target)
		require.ErrorIs(t, err, ErrUnreachable)
		require.ErrorIs(t, err, context.Canceled)
	}
}

// whenRead calls then before each read.
type whenRead struct {
	net.Conn
	then func()
}

func (w *whenRead) Read(p []byte) (int, error) {
	w.then()
	return w.Conn.Read(p)
}

func TestOpen_ClosedPort_Unreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	target := Target{TLS: TLSDisable, Dial: dialer(listener.Addr().String()), User: admin.Name, Password: admin.Password}
	require.ErrorIs(t, requireOpenFails(t, target), ErrUnreachable)
}

// accept accepts a login, as a server of this version.
func accept(conn net.Conn, version string) *pgproto3.Backend {
	backend, _ := startup(conn)
	backend.Send(&pgproto3.AuthenticationOk{})
	backend.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: version})
	backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	_ = backend.Flush()
	return backend
}

func TestOpen_LoginAcceptedByOtherServer_Disconnects(t *testing.T) {
	disconnected := make(chan struct{})
	target := fakeServer(t, func(conn net.Conn) {
		accept(conn, "16.3")
		_, _ = io.ReadAll(conn)
		close(disconnected)
	})
	require.ErrorIs(t, requireOpenFails(t, target), ErrNotPgbouncer)
	awaitClosed(t, disconnected)
}

func TestEnded_ServerErrorBetweenCommands_Closes(t *testing.T) {
	target := fakeServer(t, func(conn net.Conn) {
		backend := accept(conn, "1.25.0/bouncer")
		backend.Send(&pgproto3.NoticeResponse{Severity: "NOTICE", Message: "soon"})
		backend.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "08P01", Message: "server shutting down"})
		_ = backend.Flush()
		_, _ = io.ReadAll(conn)
	})
	c, err := Open(t.Context(), target)
	require.NoError(t, err)
	awaitClosed(t, c.Ended())
}

func TestExec_ServerErrorThenEnd_ErrorHasMessage(t *testing.T) {
	target := fakeServer(t, func(conn net.Conn) {
		backend := accept(conn, "1.25.0/bouncer")
		_, _ = backend.Receive()
		backend.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "08P01", Message: "server shutting down"})
		_ = backend.Flush()
	})
	c, err := Open(t.Context(), target)
	require.NoError(t, err)
	_, err = c.Pools(t.Context())
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorContains(t, err, "server shutting down")
	awaitClosed(t, c.Ended())
}
