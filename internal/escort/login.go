package escort

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
)

// Login is one user and password. The password does not show when the login is printed, logged or marshaled.
type Login struct {
	User     string
	Password string `json:"-"`
}

// String returns the user's name.
func (l Login) String() string { return l.User }

// GoString returns the user's name.
func (l Login) GoString() string { return l.User }

// Format prints the user's name for every verb: %x would go past String to the fields.
func (l Login) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, l.User) }

// LogValue implements slog.LogValuer.
func (l Login) LogValue() slog.Value { return slog.StringValue(l.User) }

// ErrNoLogin: no credentials are configured for the namespace.
var ErrNoLogin = errors.New("there is no credential to log in with")

// LogIn tries logins in order until one opens a console. Only a refused login is followed by the next: any other failure says
// nothing about credentials. Of a login that cannot be had, the error is kept and the next is tried. Each login is tried once.
func LogIn[Console any](
	logins iter.Seq2[Login, error], open func(Login) (Console, error), refused func(error) bool,
) (Console, error) {
	var none Console
	tried := map[Login]bool{}
	var failures []error
	for login, err := range logins {
		if err == nil && !tried[login] {
			tried[login] = true
			var console Console
			if console, err = open(login); err == nil {
				return console, nil
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
