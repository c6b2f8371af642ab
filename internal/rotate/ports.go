package rotate

import (
	"context"

	"quiesce/internal/escort"
)

// Database is PostgreSQL: the primary, which has the roles, and all servers that have sessions.
type Database interface {
	// Check returns why sessions could be missed.
	Check(ctx context.Context) error
	// Role returns what is known of a login.
	Role(ctx context.Context, name string) (Role, error)
	// Enable lets a role log in with the password of this verifier.
	Enable(ctx context.Context, name, verifier string) error
	// Forbid lets a role not log in, and keeps its password.
	Forbid(ctx context.Context, name string) error
	// Allow undoes Forbid.
	Allow(ctx context.Context, name string) error
	// Forget removes a role's password, and lets it not log in.
	Forget(ctx context.Context, name string) error
	// Position returns how far the primary's log goes.
	Position(ctx context.Context) (string, error)
	// Behind returns the standbys that have not replayed the log to a position, in words.
	Behind(ctx context.Context, position string) ([]string, error)
	// Sessions returns the sessions of a role on every server, in words. Connections that a pooler keeps are among them.
	Sessions(ctx context.Context, name string) ([]string, error)
	// Processes returns the processes of those sessions.
	Processes(ctx context.Context, name string) ([]Process, error)
	// End ends those of a role that are idle, and unused since Processes returned them.
	End(ctx context.Context, name string, processes []Process) error
}

// Process is a server's process of a session.
type Process struct {
	Server int // which of the servers: they number their processes alike
	ID     int
	State  string // when its state changed, as the server writes it
}

// Role is what is known of a login.
type Role struct {
	CanLogin bool
	Unfit    string // why it must not be rotated, with what to do; empty: it may
}

// Poolers are all pgbouncers in front of the servers.
type Poolers interface {
	// Check returns why a pooler would not read its userlist, or not show all clients.
	Check(ctx context.Context) error
	// Refusing makes the poolers read their userlists again, and returns those with which a client could not work yet, each with why.
	Refusing(ctx context.Context, login escort.Login) ([]string, error)
	// Unread is Refusing, but for the userlist alone: what the servers say does not matter.
	Unread(ctx context.Context, login escort.Login) ([]string, error)
	// Sessions returns the clients of a user on every pooler, in words. It fails if it cannot look at one of them.
	Sessions(ctx context.Context, user string) ([]string, error)
	// Kept returns the server's process IDs of connections that poolers keep for a user, and no client uses.
	Kept(ctx context.Context, user string) ([]int, error)
}

// Userlists are the files of the poolers, where they are kept.
type Userlists interface {
	// Record returns the record of the rotation, and SetRecord writes it. It fails if another run has changed it since it was read or written.
	Record(ctx context.Context) (Record, error)
	SetRecord(ctx context.Context, r Record) error
	// Check returns why these logins cannot be rotated in them. The other one may have no line.
	Check(ctx context.Context, listed, other string) error
	// SetPassword changes a user's line, or appends one. The line has the password where that of the user "like" has one in clear text, or
	// else the verifier. Without such a line, that of the other login decides. It fails as SetRecord does if another run has changed the record.
	SetPassword(ctx context.Context, user, like, password, verifier string) error
}

// App is the Secret that the clients have their login from.
type App interface {
	// Login returns the login that clients are to use, and the one before it, if that is kept.
	Login(ctx context.Context) (current, previous escort.Login, err error)
	// Move changes the login, and keeps the one before it. It fails if the login is neither of them: something else has changed it. If it is changed
	// already, nothing happens.
	Move(ctx context.Context, from, to escort.Login) error
	// Settle removes the login before.
	Settle(ctx context.Context) error
}
