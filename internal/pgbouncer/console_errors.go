package pgbouncer

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// What can go wrong on the way to a console. None of these errors, and none that wraps them, has a password in its text.
var (
	ErrUnreachable  = errors.New("the console cannot be reached")
	ErrTLS          = errors.New("TLS could not be agreed on")
	ErrNotPgbouncer = errors.New("what answers is not a pgbouncer")
	ErrCleartext    = errors.New("the password was asked for in cleartext, by a server that has not proved who it is")
	ErrRefused      = errors.New("the login was refused")
)

// What a console can answer to a command.
var (
	ErrNotAdmin      = errors.New("the user may look, but not command")
	ErrShuttingDown  = errors.New("the pooler is shutting down")
	ErrAlreadyPaused = errors.New("the pooler is paused already")
	ErrUnsupported   = errors.New("this version cannot do that")
	ErrClosed        = errors.New("the connection to the console has ended")

	errNotPaused = errors.New("the pooler is not paused")
)

// meaning is what a text of pgbouncer's stands for. Every error of pgbouncer's own, a wrong password included, has the
// SQLSTATE 08P01 (https://github.com/pgbouncer/pgbouncer/blob/pgbouncer_1_24_1/src/proto.c, send_pooler_error): only its
// text tells which.
type meaning struct {
	text  string
	error error
}

// loginMeanings are those of the errors at a login.
var loginMeanings = []meaning{
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

// commandMeanings are those of the errors that answer a command.
var commandMeanings = []meaning{
	{"admin access needed", ErrNotAdmin},
	{"pooler is shutting down", ErrShuttingDown},
	{"already suspended/paused", ErrAlreadyPaused},
	{"not paused/suspended", errNotPaused},
	{"invalid command", ErrUnsupported},
	{"unsupported command", ErrUnsupported},
}

// explain puts the server's answer in our terms.
func explain(err error, meanings []meaning) error {
	answer, is := errors.AsType[*pgconn.PgError](err)
	if !is {
		return err
	}
	for _, m := range meanings {
		if strings.Contains(answer.Message, m.text) {
			return fmt.Errorf("%w: %s", m.error, answer.Message)
		}
	}
	return answer
}
