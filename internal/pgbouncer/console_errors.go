package pgbouncer

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Errors of a login. None of them, and none that wraps them, has a password in its text.
var (
	ErrUnreachable  = errors.New("console unreachable")
	ErrTLS          = errors.New("TLS failed")
	ErrNotPgbouncer = errors.New("the server is not pgbouncer")
	ErrCleartext    = errors.New("the server asks for a cleartext password without verified TLS; use TLS mode verify-full")
	ErrRefused      = errors.New("login refused")
	ErrLimit        = errors.New("the server's answer exceeds a limit")
)

// Errors in a console's answer to a command.
var (
	ErrNotAdmin      = errors.New("user is not in admin_users")
	ErrShuttingDown  = errors.New("pgbouncer is shutting down")
	ErrAlreadyPaused = errors.New("pgbouncer is already paused")
	ErrUnsupported   = errors.New("this pgbouncer version does not support the command")
	ErrClosed        = errors.New("console connection closed")
	ErrNoDatabase    = errors.New("pgbouncer has no such database")
	ErrShared        = errors.New("several processes may share the port (so_reuseport), and a console reaches only one of them")

	errNotPaused = errors.New("pgbouncer is not paused")
)

// knownError maps a part of pgbouncer's message to an error. Every error of pgbouncer itself, a wrong password included, has
// the SQLSTATE 08P01 (https://github.com/pgbouncer/pgbouncer/blob/pgbouncer_1_24_1/src/proto.c, send_pooler_error). Only the
// text differs.
type knownError struct {
	text string
	err  error
}

// loginErrors are the errors of a login.
var loginErrors = []knownError{
	{"SASL authentication failed", ErrRefused},
	{"password authentication failed", ErrRefused},
	{"trust authentication failed", ErrRefused},
	{"login rejected", ErrRefused}, // by the HBA file
	{"no such user", ErrRefused},
	{"not allowed", ErrRefused},          // neither in admin_users nor in stats_users
	{"bouncer config error", ErrRefused}, // not in the userlist, and no auth_dbname to look the user up in
	{"SSL required", ErrTLS},             // client_tls_sslmode=require
	{"pooler is shutting down", ErrShuttingDown},
}

// commandErrors are the errors in an answer to a command.
var commandErrors = []knownError{
	{"admin access needed", ErrNotAdmin},
	{"pooler is shutting down", ErrShuttingDown},
	{"already suspended/paused", ErrAlreadyPaused},
	{"not paused/suspended", errNotPaused},
	{"is not paused", errNotPaused},
	{"no such database", ErrNoDatabase},
	{"invalid command", ErrUnsupported},
	{"unsupported command", ErrUnsupported},
}

// explain returns the known error for the server's answer, with the answer's text as far as it is printable.
func explain(err error, known []knownError) error {
	answer, is := errors.AsType[*pgconn.PgError](err)
	if !is {
		return bounded(err)
	}
	for _, k := range known {
		if strings.Contains(answer.Message, k.text) {
			return fmt.Errorf("%w: %s", k.err, printable(answer.Message))
		}
	}
	return errors.New(printable(answer.Error()))
}
