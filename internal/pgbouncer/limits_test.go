package pgbouncer

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

// flood sends the messages again and again until the client has gone.
func flood(conn net.Conn, messages ...pgproto3.BackendMessage) {
	var round []byte
	for len(round) < 64<<10 {
		for _, message := range messages {
			round, _ = message.Encode(round)
		}
	}
	for {
		if _, err := conn.Write(round); err != nil {
			return
		}
	}
}

// description is the description of a table with these columns.
func description(columns ...string) *pgproto3.RowDescription {
	message := &pgproto3.RowDescription{}
	for _, column := range columns {
		message.Fields = append(message.Fields, pgproto3.FieldDescription{Name: []byte(column)})
	}
	return message
}

// afterLogin is a server of which the answer to the first command is not pgbouncer's.
func afterLogin(t *testing.T, answer func(net.Conn, *pgproto3.Backend)) *Console {
	t.Helper()
	c, err := Open(t.Context(), fakeServer(t, func(conn net.Conn) {
		backend := accept(conn, "1.25.0/bouncer")
		if _, err := backend.Receive(); err == nil {
			answer(conn, backend)
			_, _ = io.ReadAll(conn)
		}
	}))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func TestOpen_ServerSendsTooMuch_ExceedsLimit(t *testing.T) {
	ok := &pgproto3.AuthenticationOk{}
	for name, messages := range map[string][]pgproto3.BackendMessage{
		"many parameters": {ok, &pgproto3.ParameterStatus{Name: "name", Value: "value"}},
		"many notices":    {ok, &pgproto3.NoticeResponse{Message: "notice"}},
		"many demands":    {ok},
	} {
		target := fakeServer(t, func(conn net.Conn) {
			startup(conn)
			flood(conn, messages...)
		})
		require.ErrorIs(t, requireOpenFails(t, target), ErrLimit, name)
	}
}

func TestPools_ServerSendsTooMuch_ExceedsLimit(t *testing.T) {
	pools := description("database", "user", "cl_active", "cl_waiting", "sv_active", "sv_tested", "pool_mode")
	row := func(database string) *pgproto3.DataRow {
		return &pgproto3.DataRow{Values: [][]byte{[]byte(database), []byte("u"), []byte("1"), []byte("0"), []byte("0"), []byte("0"), []byte("session")}}
	}
	wide := make([]string, maxColumns+1)
	for name, messages := range map[string][]pgproto3.BackendMessage{
		"many rows":      {row("d")},
		"many bytes":     {row(strings.Repeat("d", maxMessage/2))},
		"a long row":     {row(strings.Repeat("d", maxMessage))},
		"many values":    {&pgproto3.DataRow{Values: make([][]byte, maxColumns+1)}},
		"many columns":   {description(wide...)},
		"many tables":    {pools, &pgproto3.CommandComplete{CommandTag: []byte("SHOW")}},
		"many notices":   {&pgproto3.NoticeResponse{Message: "notice"}},
		"many errors":    {&pgproto3.ErrorResponse{Code: "08P01", Message: "error"}},
		"a long error":   {&pgproto3.ErrorResponse{Code: "08P01", Message: strings.Repeat("e", 900<<10)}},
		"many completed": {&pgproto3.CommandComplete{CommandTag: []byte("SHOW")}},
	} {
		c := afterLogin(t, func(conn net.Conn, backend *pgproto3.Backend) {
			backend.Send(pools)
			_ = backend.Flush()
			flood(conn, messages...)
		})
		_, err := c.Pools(t.Context())
		require.ErrorIs(t, err, ErrClosed, name)
		require.ErrorIs(t, err, ErrLimit, name)
		require.Less(t, len(err.Error()), 2*maxText, name)
		awaitClosed(t, c.Ended())
	}
}

// 16 MiB of small rows cost 146 MiB.
func TestPools_ManySmallRows_CostLittleMemory(t *testing.T) {
	var small bytes.Buffer
	for range 1000 {
		text, err := (&pgproto3.DataRow{Values: [][]byte{nil}}).Encode(nil)
		require.NoError(t, err)
		small.Write(text)
	}
	c := afterLogin(t, func(conn net.Conn, backend *pgproto3.Backend) {
		backend.Send(description("database"))
		_ = backend.Flush()
		for written := 0; written < 16<<20; written += small.Len() {
			if _, err := conn.Write(small.Bytes()); err != nil {
				return
			}
		}
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := c.Pools(t.Context())
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, ErrLimit)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(maxAnswer))
}

// hostileText is as long as a message may be, and holds what no log should.
var hostileText = strings.Repeat("\x1b[2J\x00\r\n{\"level\":\"INFO\"}\xff\u2028\u202e", maxMessage/64)

func requirePrintable(t *testing.T, err error) {
	t.Helper()
	text := err.Error()
	require.Less(t, len(text), 2*maxText)
	require.True(t, utf8.ValidString(text))
	require.False(t, strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }), "%q", text)
}

func TestErrors_HostileText_IsBoundedAndPrintable(t *testing.T) {
	failed := &pgproto3.ErrorResponse{Severity: "FATAL", Code: "08P01", Message: hostileText}
	for name, answer := range map[string]*pgproto3.ErrorResponse{
		"of pgbouncer": failed, "of another server": {Severity: "FATAL", Code: hostileText[:100], Message: hostileText},
		"of a refused login": {Severity: "FATAL", Code: "08P01", Message: "no such user" + hostileText},
	} {
		target := fakeServer(t, func(conn net.Conn) {
			backend, _ := startup(conn)
			backend.Send(answer)
			_ = backend.Flush()
		})
		err := requireOpenFails(t, target)
		require.NotErrorIs(t, err, ErrLimit, name)
		requirePrintable(t, err)
	}
	other := fakeServer(t, func(conn net.Conn) {
		accept(conn, hostileText[:maxMessage/4])
		_, _ = io.ReadAll(conn)
	})
	requirePrintable(t, requireOpenFails(t, other))

	for name, ready := range map[string]bool{"in an answer": true, "at the end": false} {
		c := afterLogin(t, func(conn net.Conn, backend *pgproto3.Backend) {
			backend.Send(failed)
			if ready {
				backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			}
			_ = backend.Flush()
			if !ready {
				conn.Close()
			}
		})
		_, err := c.Pools(t.Context())
		require.Error(t, err, name)
		requirePrintable(t, err)
	}
	target := Target{TLS: TLSDisable, Dial: func(context.Context) (net.Conn, error) { return nil, errors.New(hostileText) }}
	requirePrintable(t, requireOpenFails(t, target))
}

func TestPrintable_AnyText_IsReadable(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "no such user: é": "no such user: é", "a\nb\t\"c'": `a\nb\t"c'`, "\xff\xfe": `\xff\xfe`, "\u202e": `\u202e`, "\x1b[2J": `\x1b[2J`,
		strings.Repeat("a", 200): strings.Repeat("a", 200), strings.Repeat("a", 201): strings.Repeat("a", 200) + "... (201 bytes)",
		strings.Repeat("é", 150): strings.Repeat("é", 100) + "... (300 bytes)",
	} {
		require.Equal(t, want, printable(text))
	}
}

// challenge serves a SCRAM login up to its challenge. The client's nonce is in %s.
func challenge(t *testing.T, text string) Target {
	t.Helper()
	return fakeServer(t, func(conn net.Conn) {
		backend, _ := startup(conn)
		backend.Send(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}})
		_ = backend.Flush()
		_ = backend.SetAuthType(pgproto3.AuthTypeSASL)
		message, err := backend.Receive()
		if err != nil {
			return
		}
		first, _ := message.(*pgproto3.SASLInitialResponse)
		_, nonce, _ := strings.Cut(string(first.Data), "r=")
		backend.Send(&pgproto3.AuthenticationSASLContinue{Data: fmt.Appendf(nil, text, nonce)})
		_ = backend.Flush()
		_ = backend.SetAuthType(pgproto3.AuthTypeSASLContinue)
		if _, err := backend.Receive(); err == nil {
			backend.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "08P01", Message: "SASL authentication failed"})
			_ = backend.Flush()
		}
	})
}

// A server is not known yet when it says how much the client must compute.
func TestOpen_CostlySCRAM_IsRefusedBeforeItIsComputed(t *testing.T) {
	const salt = "MTIzNDU2Nzg5MDEyMzQ1Ng=="
	for text, limit := range map[string]string{
		"r=%sx,s=" + salt + ",i=10000000":                                       "10000000 iterations",
		"r=%sx,s=" + salt + ",i=100001":                                         "100001 iterations",
		"r=%sx,s=" + strings.Repeat("AAAA", 30) + ",i=4096":                     "salt of 90 bytes",
		"r=%s" + strings.Repeat("x", 300) + ",s=" + salt + ",i=4096":            "nonce of",
		"r=%s" + strings.Repeat("x", maxAuthMessage) + ",s=" + salt + ",i=4096": "authentication message",
	} {
		err := requireOpenFails(t, challenge(t, text))
		require.ErrorIs(t, err, ErrLimit, text)
		require.ErrorContains(t, err, limit)
	}
	for _, text := range []string{"r=%sx,s=" + salt + ",i=4096", "r=%sx,s=" + salt + ",i=100000"} {
		require.ErrorIs(t, requireOpenFails(t, challenge(t, text)), ErrRefused, "an ordinary challenge is answered")
	}
	for _, text := range []string{"", "r=%sx", "r=%sx,s=" + salt, "r=%sx,s=,i=", "r=%sx,s=" + salt + ",i=-1", "r=,s=" + salt + ",i=1", "%s,,"} {
		require.ErrorIs(t, requireOpenFails(t, challenge(t, text)), ErrNotPgbouncer, text)
	}
}

func TestMessageReader_SecondChallenge_IsRefused(t *testing.T) {
	text, err := (&pgproto3.AuthenticationSASLContinue{Data: []byte("r=a,s=MTIz,i=4096")}).Encode(nil)
	require.NoError(t, err)
	reader := newMessageReader(io.MultiReader(bytes.NewReader(text), bytes.NewReader(text)), &newLimitedConn(nil).allowance)
	read, err := io.ReadAll(reader)
	require.ErrorIs(t, err, ErrLimit)
	require.Equal(t, text, read)
}

// drip is a server that greets, and then sends one byte a second.
func drip(t *testing.T, greeting func(*pgproto3.Backend, net.Conn)) Target {
	t.Helper()
	return Target{TLS: TLSDisable, User: admin.Name, Password: admin.Password, Dial: func(context.Context) (net.Conn, error) {
		client, server := net.Pipe()
		stopped := make(chan struct{})
		t.Cleanup(func() { <-stopped })
		go func() {
			defer close(stopped)
			defer server.Close()
			greeting(pgproto3.NewBackend(server, server), server)
			go func() { _, _ = io.Copy(io.Discard, server) }()
			for _, b := range []byte("N\x00\x00\x10\x00" + strings.Repeat("x", 100)) {
				if _, err := server.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		return client, nil
	}}
}

func TestOpen_OneByteASecond_EndsAtItsDeadline(t *testing.T) {
	for _, mode := range []TLSMode{TLSDisable, TLSRequire} {
		bubble.Test(t, func(t *testing.T) {
			target := drip(t, func(backend *pgproto3.Backend, conn net.Conn) {
				if mode == TLSDisable {
					_, _ = backend.ReceiveStartupMessage()
					return
				}
				_, _ = io.ReadFull(conn, make([]byte, 8))
				_, _ = conn.Write([]byte{'S'})
				_, _ = conn.Write([]byte{22, 3, 3, 0x40, 0}) // a TLS record that takes hours
			})
			target.TLS = mode
			began := time.Now()
			require.ErrorIs(t, requireOpenFails(t, target), ErrUnreachable)
			require.Equal(t, loginTimeout, time.Since(began))
		})
	}
}

func TestExec_OneByteASecond_EndsAtItsDeadline(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c, err := Open(t.Context(), drip(t, func(backend *pgproto3.Backend, _ net.Conn) {
			_, _ = backend.ReceiveStartupMessage()
			backend.Send(&pgproto3.AuthenticationOk{})
			backend.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: "1.25.0/bouncer"})
			backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			_ = backend.Flush()
			_, _ = backend.Receive()
		}))
		require.NoError(t, err)
		defer c.Close()
		began := time.Now()
		_, err = c.Pools(t.Context())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, commandTimeout, time.Since(began))
		require.False(t, c.Usable())
	})
}

// A certificate may name a thousand hosts, and the error lists them.
func TestOpen_CertificateOfManyNames_ErrorIsShort(t *testing.T) {
	names := make([]string, 90)
	for i := range names {
		names[i] = strings.Repeat("a", 60) + fmt.Sprint(i) + ".example.com"
	}
	target := fakeTLSServer(t, names)
	err := requireOpenFails(t, target)
	require.ErrorIs(t, err, ErrTLS)
	require.ErrorContains(t, err, "example.com")
	requirePrintable(t, err)
}

// fakeTLSServer offers TLS with a certificate for these names.
func fakeTLSServer(t *testing.T, names []string) Target {
	t.Helper()
	certificate, pool := certificateFor(t, names)
	target := fakeServer(t, func(conn net.Conn) {
		_, _ = io.ReadFull(conn, make([]byte, 8))
		_, _ = conn.Write([]byte{'S'})
		_ = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{certificate}}).Handshake()
	})
	target.TLS, target.ServerName, target.RootCAs = TLSVerifyFull, "pgbouncer.test", pool
	return target
}

// certificateFor returns a certificate that signed itself, and the pool that trusts it.
func certificateFor(t *testing.T, names []string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: names, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// panics is a connection of which a read panics once it is armed: what a server sent was too much for the decoder.
type panics struct {
	net.Conn
	armed atomic.Bool
}

func (p *panics) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if p.armed.Load() {
		panic("a decoder's error")
	}
	return n, err
}

// Which goroutine reads depends on how long a write takes.
func TestLimitedConn_ReadPanics_IsAnError(t *testing.T) {
	here, there := net.Pipe()
	go func() { _, _ = there.Write([]byte("x")) }()
	conn := &panics{Conn: here}
	conn.armed.Store(true)
	n, err := newLimitedConn(conn).Read(make([]byte, 8))
	require.Zero(t, n)
	require.ErrorContains(t, err, "panic: a decoder's error")
}

// A panic of another goroutine is not recovered: the process would end, with all its drains.
func TestConsole_ReadPanicsInBackground_ConsoleEnds(t *testing.T) {
	for name, use := range map[string]func(*testing.T, *Console) <-chan struct{}{
		"between commands": func(_ *testing.T, c *Console) <-chan struct{} { return c.Ended() },
		"during a pause": func(t *testing.T, c *Console) <-chan struct{} {
			pending, err := c.Pause(t.Context())
			require.NoError(t, err)
			t.Cleanup(func() { require.ErrorIs(t, pending.Err(), ErrClosed, "it is not known to be paused") })
			return pending.Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			send := make(chan struct{})
			target := fakeServer(t, func(conn net.Conn) {
				backend := accept(conn, "1.25.0/bouncer")
				<-send
				backend.Send(&pgproto3.NoticeResponse{Message: "hello"})
				_ = backend.Flush()
				_, _ = io.ReadAll(conn)
			})
			dial, conn := target.Dial, &panics{}
			target.Dial = func(ctx context.Context) (net.Conn, error) {
				var err error
				conn.Conn, err = dial(ctx)
				return conn, err
			}
			c, err := Open(t.Context(), target)
			require.NoError(t, err)
			done := use(t, c)
			conn.armed.Store(true)
			close(send)
			awaitClosed(t, done)
			awaitClosed(t, c.Ended())
			_, err = c.Pools(t.Context())
			require.ErrorIs(t, err, ErrClosed)
		})
	}
}
