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

// impostor answers one connection in a way of its own; no real pooler is that hostile.
func impostor(t *testing.T, play func(net.Conn)) Target {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			play(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() { listener.Close(); <-over })
	return Target{Dial: dialer(listener.Addr().String()), TLS: TLSDisable, User: admin.Name, Password: admin.Password}
}

// startup reads what a client says first.
func startup(conn net.Conn) (*pgproto3.Backend, *pgproto3.StartupMessage) {
	backend := pgproto3.NewBackend(conn, conn)
	message, _ := backend.ReceiveStartupMessage()
	said, _ := message.(*pgproto3.StartupMessage)
	return backend, said
}

func TestNobodyGetsThePasswordByAskingForIt(t *testing.T) {
	told := make(chan []byte, 1)
	target := impostor(t, func(conn net.Conn) {
		backend, _ := startup(conn)
		backend.Send(&pgproto3.AuthenticationCleartextPassword{})
		_ = backend.Flush()
		rest, _ := io.ReadAll(conn)
		told <- rest
	})
	require.ErrorIs(t, fails(t, target), ErrCleartext)
	require.Empty(t, <-told)
}

func TestOnlyTheNecessaryIsSaidAtALogin(t *testing.T) {
	said := make(chan map[string]string, 1)
	target := impostor(t, func(conn net.Conn) {
		_, message := startup(conn)
		said <- message.Parameters
	})
	require.ErrorIs(t, fails(t, target), ErrUnreachable)
	require.Equal(t, map[string]string{
		"user": admin.Name, "database": "pgbouncer", "application_name": "quiesce",
	}, <-said)
}

func TestWhoSpeaksAnotherProtocolIsNotAPgbouncer(t *testing.T) {
	for _, greeting := range []string{
		"HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH_9.2p1\r\n", "-ERR unknown command\r\n",
		"R\x7f\xff\xff\xff" + strings.Repeat("x", 100),
	} {
		target := impostor(t, func(conn net.Conn) {
			_, _ = io.WriteString(conn, greeting)
			_, _ = io.ReadAll(conn)
		})
		require.ErrorIs(t, fails(t, target), ErrNotPgbouncer, greeting)
		target.TLS = TLSPrefer
		if !strings.HasPrefix(greeting, "S") { // that is a yes to TLS
			require.ErrorIs(t, fails(t, target), ErrNotPgbouncer, greeting)
		}
	}
}

func TestAnHTTPServerIsLeftAlone(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	dial := dialer(server.Listener.Addr().String())
	target := Target{TLS: TLSDisable, User: admin.Name, Password: admin.Password, Dial: func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		return &whenRead{Conn: conn, then: cancel}, err
	}}
	_, err := Open(ctx, target)
	require.ErrorIs(t, err, ErrUnreachable, "it waits for the rest of a request")
}

func TestASilentPortIsGivenUpWithTheContext(t *testing.T) {
	for _, mode := range []TLSMode{TLSDisable, TLSRequire} {
		ctx, cancel := context.WithCancel(t.Context())
		target := impostor(t, func(conn net.Conn) {
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

// whenRead does something when the connection is read from.
type whenRead struct {
	net.Conn
	then func()
}

func (w *whenRead) Read(p []byte) (int, error) {
	w.then()
	return w.Conn.Read(p)
}

func TestAPortWhereNobodyListensIsUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	target := Target{TLS: TLSDisable, Dial: dialer(listener.Addr().String()), User: admin.Name, Password: admin.Password}
	require.ErrorIs(t, fails(t, target), ErrUnreachable)
}

// accept lets a client in, as a pooler of this version.
func accept(conn net.Conn, version string) *pgproto3.Backend {
	backend, _ := startup(conn)
	backend.Send(&pgproto3.AuthenticationOk{})
	backend.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: version})
	backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	_ = backend.Flush()
	return backend
}

func TestWhoLetsUsInButIsNoPgbouncerIsLeft(t *testing.T) {
	left := make(chan struct{})
	target := impostor(t, func(conn net.Conn) {
		accept(conn, "16.3")
		_, _ = io.ReadAll(conn)
		close(left)
	})
	require.ErrorIs(t, fails(t, target), ErrNotPgbouncer)
	within(t, left)
}

func TestLastWordsAreHeardWhileNobodyAsks(t *testing.T) {
	target := impostor(t, func(conn net.Conn) {
		backend := accept(conn, "1.25.0/bouncer")
		backend.Send(&pgproto3.NoticeResponse{Severity: "NOTICE", Message: "soon"})
		backend.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "08P01", Message: "server shutting down"})
		_ = backend.Flush()
		_, _ = io.ReadAll(conn)
	})
	c, err := Open(t.Context(), target)
	require.NoError(t, err)
	within(t, c.Ended())
}

func TestTheLastWordsAreInTheError(t *testing.T) {
	target := impostor(t, func(conn net.Conn) {
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
	within(t, c.Ended())
}

func TestAFloodIsNotTakenIn(t *testing.T) {
	flood := func(backend *pgproto3.Backend, message pgproto3.BackendMessage) {
		for backend.Flush() == nil {
			backend.Send(message)
		}
	}
	atLogin := impostor(t, func(conn net.Conn) {
		backend, _ := startup(conn)
		flood(backend, &pgproto3.ParameterStatus{Name: "name", Value: strings.Repeat("x", maxMessage/2)})
	})
	require.ErrorIs(t, fails(t, atLogin), ErrNotPgbouncer)

	target := impostor(t, func(conn net.Conn) {
		backend := accept(conn, "1.25.0/bouncer")
		_, _ = backend.Receive()
		backend.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("database")}}})
		flood(backend, &pgproto3.DataRow{Values: [][]byte{make([]byte, maxMessage/2)}})
	})
	c, err := Open(t.Context(), target)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Pools(t.Context())
	require.ErrorIs(t, err, ErrClosed)
}
