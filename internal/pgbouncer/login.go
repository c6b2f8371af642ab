package pgbouncer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

const (
	// loginTimeout bounds one attempt: far longer than a pooler takes that answers at all, the round trips of a
	// port-forward included, and short enough to leave most of an escort's minute to a plain eviction. A login that needs
	// a look-up in the database hangs while the pooler is paused, without end.
	loginTimeout = 5 * time.Second
	// maxAnswer is how much a server may send at a login or in answer to one command, and maxMessage how much of it in one
	// message. The first has room for the 300 bytes of each of 50,000 clients, the second for any row; and who only
	// poses as a pooler must not fill our memory.
	maxAnswer, maxMessage = 16 << 20, 1 << 20
	// database is the console's reserved name (https://www.pgbouncer.org/usage.html#admin-console).
	database = "pgbouncer"
)

// Target says how to reach a console and how to log in to it. The password does not show when the target is printed.
type Target struct {
	// Dial opens a fresh connection to the pooler's port. Deadlines must work on it.
	Dial           func(ctx context.Context) (net.Conn, error)
	User, Password string

	TLS        TLSMode
	ServerName string         // in the server's certificate, for TLSVerifyFull
	RootCAs    *x509.CertPool // that may have signed it, for TLSVerifyFull
}

// String returns the user's name.
func (t Target) String() string { return t.User }

// Format prints the user's name for every verb: %x would go past String to the fields.
func (t Target) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.User) }

// LogValue implements slog.LogValuer.
func (t Target) LogValue() slog.Value { return slog.StringValue(t.User) }

// open makes one attempt.
func (t Target) open(ctx context.Context) (*Console, error) {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	conn, err := t.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	raw := &metered{Conn: conn}
	raw.left.Store(maxAnswer)
	session, err := t.handshake(ctx, raw)
	if err == nil {
		var version Version
		if version, err = parseVersion(session.ParameterStatus("server_version")); err == nil {
			return newConsole(t, version, session, raw), nil
		}
	}
	raw.Close()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, context.Cause(ctx))
	}
	return nil, err
}

func (t Target) handshake(ctx context.Context, raw net.Conn) (*pgconn.PgConn, error) {
	conn, err := t.secure(ctx, raw)
	if err != nil {
		return nil, err
	}
	config, err := t.config(conn)
	if err != nil {
		return nil, err
	}
	session, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, explainLogin(err)
	}
	return session, nil
}

// settings override everything that pgconn would take from the environment or from files in the home directory. Only a service
// that PGSERVICE names is still looked up: what it says is overridden as well, but that there is no such service is an error.
const settings = "host=console port=6432 dbname=" + database + " user=unknown password=unknown passfile='' " +
	"connect_timeout=0 sslmode=disable sslrootcert='' sslcert='' sslkey='' sslcertmode=disable sslpassword='' sslsni=0 " +
	"sslnegotiation=postgres target_session_attrs=any channel_binding=prefer require_auth='' " +
	"min_protocol_version=3.0 max_protocol_version=3.0"

// config prepares a login over conn and over no other connection.
func (t Target) config(conn net.Conn) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(settings)
	if err != nil {
		return nil, fmt.Errorf("prepare the login: %w", err)
	}
	config.User, config.Password = t.User, t.Password
	// Every other parameter may be refused (https://www.pgbouncer.org/config.html#ignore_startup_parameters).
	config.RuntimeParams = map[string]string{"application_name": "quiesce"}
	config.RequireAuth = t.acceptable()
	config.MaxProtocolMessageBodyLen = maxMessage
	config.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	config.DialFunc = only(conn)
	config.BuildContextWatcherHandler = func(session *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: session.Conn()}
	}
	return config, nil
}

// only hands out one connection, once. When a command fails, pgconn dials another by itself to send a CancelRequest; and
// whatever command of a console is cancelled, pgbouncer resumes all that is paused
// (https://github.com/pgbouncer/pgbouncer/blob/pgbouncer_1_24_1/src/admin.c, admin_handle_cancel).
func only(conn net.Conn) pgconn.DialFunc {
	var taken atomic.Bool
	return func(context.Context, string, string) (net.Conn, error) {
		if taken.Swap(true) {
			return nil, errors.New("a console has one connection")
		}
		return conn, nil
	}
}

// acceptable are the ways of proving a password that we go along with. In cleartext, it is told to a server that has proved
// who it is, and to nobody else: anybody's pod can wear the label of a pooler. The answers to the others can be attacked by
// guessing, MD5's faster than SCRAM's, which the random passwords of machines withstand; MD5 is what poolers ask that
// have auth_type=md5, the default.
func (t Target) acceptable() string {
	const hashed = "none,md5,scram-sha-256"
	if t.TLS == TLSVerifyFull {
		return hashed + ",password"
	}
	return hashed
}

// explainLogin says why a login failed, without pgconn's own error, which holds the password (though not in its text).
func explainLogin(err error) error {
	if failed, is := errors.AsType[*pgconn.ConnectError](err); is {
		err = errors.Unwrap(failed)
	}
	if answer, is := errors.AsType[*pgconn.PgError](err); is {
		return explainRefusal(answer)
	}
	switch text := err.Error(); {
	case strings.Contains(text, "server requested password authentication"):
		return ErrCleartext
	case isNetwork(err):
		return fmt.Errorf("%w: %s", ErrUnreachable, text)
	default:
		return fmt.Errorf("%w: %s", ErrNotPgbouncer, text) // it spoke, but not the protocol
	}
}

// explainRefusal: other SQLSTATEs than pgbouncer's one are those of a PostgreSQL, which has no such database either
// (https://www.postgresql.org/docs/current/errcodes-appendix.html).
func explainRefusal(answer *pgconn.PgError) error {
	const protocolViolation, invalidPassword = "08P01", "28P01"
	switch answer.Code {
	case protocolViolation, invalidPassword:
		return explain(answer, loginMeanings)
	default:
		return fmt.Errorf("%w: %w", ErrNotPgbouncer, answer)
	}
}

// metered is a connection over which only so much may still come.
type metered struct {
	net.Conn
	left atomic.Int64
}

var errTooMuch = errors.New("the server sends more than any console has to say")

func (m *metered) Read(p []byte) (int, error) {
	if m.left.Load() <= 0 {
		return 0, errTooMuch
	}
	n, err := m.Conn.Read(p)
	m.left.Add(-int64(n))
	return n, err
}

func isNetwork(err error) bool {
	_, is := errors.AsType[net.Error](err)
	return is || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}
