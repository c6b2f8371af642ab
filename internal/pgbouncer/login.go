package pgbouncer

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	// loginTimeout bounds one login. It is far longer than a working pgbouncer needs, round trips of a port-forward
	// included. It is short enough to leave most of an escort's minute for a plain eviction. A login that needs a lookup in
	// the database hangs forever while pgbouncer is paused.
	loginTimeout = 5 * time.Second
	// database is the console's reserved name (https://www.pgbouncer.org/usage.html#admin-console).
	database = "pgbouncer"
)

// Target says how to reach a console and how to log in. A printed Target does not show the password.
type Target struct {
	// Dial opens a new connection to pgbouncer's port. Its deadlines must work.
	Dial           func(ctx context.Context) (net.Conn, error)
	User, Password string
	Application    string // by which SHOW CLIENTS tells the connection from others, from 1.18 on; empty: quiesce

	TLS        TLSMode
	ServerName string         // the name in the server's certificate, for TLSVerifyFull
	RootCAs    *x509.CertPool // the authorities that may have signed it, for TLSVerifyFull
}

// String returns the user's name.
func (t Target) String() string { return t.User }

// Format prints the user's name for every verb: %x would print the fields in spite of String.
func (t Target) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.User) }

// LogValue implements slog.LogValuer.
func (t Target) LogValue() slog.Value { return slog.StringValue(t.User) }

// open tries one login.
func (t Target) open(ctx context.Context) (*Console, error) {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	raw, err := t.connect(ctx)
	if err != nil {
		return nil, err
	}
	session, err := t.handshake(ctx, raw, database)
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

// connect opens a connection on which the server may send no more than a console says.
func (t Target) connect(ctx context.Context) (*limitedConn, error) {
	conn, err := t.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, bounded(err))
	}
	return newLimitedConn(conn), nil
}

// inDatabase logs in to a database as any client does, and does something there. It takes loginTimeout at most.
func (t Target) inDatabase(ctx context.Context, name string, do func(ctx context.Context, session *pgconn.PgConn) error) error {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	raw, err := t.connect(ctx)
	if err != nil {
		return err
	}
	defer raw.Close()
	session, err := t.handshake(ctx, raw, name)
	if err != nil {
		return err
	}
	return do(ctx, session)
}

// isRefused reports whether nothing listens on the port any more. It only asks for TLS: a login could wait for a database that is paused.
func (t Target) isRefused(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	conn, err := t.Dial(ctx)
	if err == nil {
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
		_, err = requestTLS(conn)
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func (t Target) handshake(ctx context.Context, raw *limitedConn, name string) (*pgconn.PgConn, error) {
	conn, err := t.negotiateTLS(ctx, raw)
	if err != nil {
		return nil, err
	}
	config, err := t.config(conn, &raw.allowance)
	if err != nil {
		return nil, err
	}
	config.Database = name
	session, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, explainLogin(err)
	}
	return session, nil
}

// connectionSettings override everything that pgconn would read from the environment or from files in the home directory.
// pgconn still looks up the service that PGSERVICE names. The settings override what it says, but a missing service is an
// error.
const connectionSettings = "host=console port=6432 dbname=" + database + " user=unknown password=unknown passfile='' " +
	"connect_timeout=0 sslmode=disable sslrootcert='' sslcert='' sslkey='' sslcertmode=disable sslpassword='' sslsni=0 " +
	"sslnegotiation=postgres target_session_attrs=any channel_binding=prefer require_auth='' " +
	"min_protocol_version=3.0 max_protocol_version=3.0"

// config returns the settings of a login over conn, and over no other connection. The server may send what the allowance says.
func (t Target) config(conn net.Conn, allowed *allowance) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(connectionSettings)
	if err != nil {
		return nil, fmt.Errorf("prepare the login: %w", err)
	}
	config.User, config.Password = t.User, t.Password
	// pgbouncer may refuse every other parameter (https://www.pgbouncer.org/config.html#ignore_startup_parameters).
	config.RuntimeParams = map[string]string{"application_name": cmp.Or(t.Application, "quiesce")}
	config.RequireAuth = t.authMethods()
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(newMessageReader(r, allowed), w)
	}
	config.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	config.DialFunc = dialOnce(conn)
	config.BuildContextWatcherHandler = func(session *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: session.Conn()}
	}
	return config, nil
}

// dialOnce returns a dial function that returns conn once and fails after that. When a command fails, pgconn dials again to
// send a CancelRequest. For a CancelRequest to any command of a console, pgbouncer resumes everything that is paused
// (https://github.com/pgbouncer/pgbouncer/blob/pgbouncer_1_24_1/src/admin.c, admin_handle_cancel).
func dialOnce(conn net.Conn) pgconn.DialFunc {
	var taken atomic.Bool
	return func(context.Context, string, string) (net.Conn, error) {
		if taken.Swap(true) {
			return nil, errors.New("a console uses only one connection")
		}
		return conn, nil
	}
}

// authMethods returns the accepted authentication methods. A cleartext password goes only to a server that verified TLS has
// identified: any pod can have the label of a pooler. The other answers can be attacked by guessing, those of MD5 faster than
// those of SCRAM. Random passwords withstand that. A pgbouncer with auth_type=md5, the default, asks for MD5.
func (t Target) authMethods() string {
	const hashed = "none,md5,scram-sha-256"
	if t.TLS == TLSVerifyFull {
		return hashed + ",password"
	}
	return hashed
}

// proof is one transaction that needs no table and works only on a primary: it writes a message that is never read
// (https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-REPLICATION). It does not wait for synchronous standbys: those
// of a new primary may be about to connect.
const proof = "BEGIN; SET LOCAL synchronous_commit = local; SELECT pg_logical_emit_message(true, 'quiesce', ''); COMMIT"

// ProveWrite logs in to a database as any client does, and writes. It takes loginTimeout at most. A database that is paused, or that
// another server than a primary has, is an error.
func (t Target) ProveWrite(ctx context.Context, name string) error {
	err := t.inDatabase(ctx, name, func(ctx context.Context, session *pgconn.PgConn) error { return readProof(session.Exec(ctx, proof)) })
	if err != nil {
		return fmt.Errorf("prove a write: %w", err)
	}
	return nil
}

func readProof(results *pgconn.MultiResultReader) error {
	readErr := readRows(results, nil)
	if err := results.Close(); err != nil {
		return bounded(err)
	}
	return readErr
}

// explainLogin returns why a login failed, without pgconn's own error, which holds the password (though not in its text).
func explainLogin(err error) error {
	if failed, is := errors.AsType[*pgconn.ConnectError](err); is {
		err = errors.Unwrap(failed)
	}
	if answer, is := errors.AsType[*pgconn.PgError](err); is {
		return explainRefusal(answer)
	}
	limit, exceeded := errors.AsType[*limitError](err)
	switch text := err.Error(); {
	case exceeded && !limit.foreign:
		return fmt.Errorf("%w: %s", ErrLimit, printable(text))
	case strings.Contains(text, "server requested password authentication"):
		return ErrCleartext
	case isNetworkError(err):
		return fmt.Errorf("%w: %w", ErrUnreachable, bounded(err)) // its kind says whether nothing listens
	default:
		return fmt.Errorf("%w: %s", ErrNotPgbouncer, printable(text)) // it answered, but not in the protocol
	}
}

// explainRefusal returns why the server refused the login. Other SQLSTATEs than pgbouncer's come from PostgreSQL, which has
// no database of that name (https://www.postgresql.org/docs/current/errcodes-appendix.html).
func explainRefusal(answer *pgconn.PgError) error {
	const protocolViolation, invalidPassword = "08P01", "28P01"
	switch answer.Code {
	case protocolViolation, invalidPassword:
		return explain(answer, loginErrors)
	default:
		return fmt.Errorf("%w: %s", ErrNotPgbouncer, printable(answer.Error()))
	}
}

func isNetworkError(err error) bool {
	_, is := errors.AsType[net.Error](err)
	return is || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}
