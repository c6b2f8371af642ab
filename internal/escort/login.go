package escort

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
)

// Login is a user and a password. A printed, logged or marshaled Login does not show the password.
type Login struct {
	User     string
	Password string `json:"-"`
}

// String returns the user's name.
func (l Login) String() string { return l.User }

// GoString returns the user's name.
func (l Login) GoString() string { return l.User }

// Format prints the user's name for every verb: %x would print the fields in spite of String.
func (l Login) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, l.User) }

// LogValue implements slog.LogValuer.
func (l Login) LogValue() slog.Value { return slog.StringValue(l.User) }

// Logins yields the logins that may be sent to pods of a namespace, in the order in which they are tried.
type Logins func(ctx context.Context, namespace string) iter.Seq2[Login, error]

// Temporary is an error that may not come again, such as that of an API server that is replaced.
type Temporary struct{ Err error }

// Error returns the text of the error.
func (t Temporary) Error() string { return t.Err.Error() }

// Unwrap returns the error.
func (t Temporary) Unwrap() error { return t.Err }

// ErrNoLogin is the error if no credentials are configured for the namespace.
var ErrNoLogin = errors.New("no credentials configured for the namespace")

// ErrOtherNamespace is the error of credentials that must not be sent to pods of the namespace.
var ErrOtherNamespace = errors.New("credentials are for another namespace")

// LogIn tries logins in order until one is accepted, each login once, and returns what was done with it. The next login follows only if the
// server refused the one before: any other failure says nothing about credentials. If a login cannot be read, its error is kept and the next
// is tried.
func LogIn[T any](
	logins iter.Seq2[Login, error], open func(Login) (T, error), refused func(error) bool,
) (T, error) {
	var none T
	tried := map[Login]bool{}
	var failures []error
	for login, err := range logins {
		if err == nil && !tried[login] {
			tried[login] = true
			var done T
			if done, err = open(login); err == nil {
				return done, nil
			}
			if !refused(err) {
				return none, err
			}
		}
		failures = append(failures, err)
	}
	if err := errors.Join(failures...); err != nil {
		return none, err
	}
	return none, ErrNoLogin
}
