// Package secrets reads the credentials of poolers' consoles from a Kubernetes Secret or from AWS Secrets Manager.
//
// During a rotation, each pooler switches at its own time: when the new file has reached its pod and it was told to reload
// (https://www.pgbouncer.org/usage.html#reload). So a source yields every login that may be valid now, the likeliest first.
package secrets

import (
	"context"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"

	"quiesce/internal/escort"
)

// Source yields logins in the order to try them. It reads the next one only after the console rejected the last. An error ends
// the sequence, unless it is about a version that may be missing. Each pooler starts a new sequence, so that a rotation in the middle
// of a drain breaks nothing. A Source is safe for concurrent use.
type Source func(ctx context.Context) iter.Seq2[escort.Login, error]

// Bound limits a source to pods in some namespaces, by name or by glob of path.Match. For other namespaces it yields an error:
// a pod that merely has a pooler's label must not get the password.
func Bound(source Source, namespaces ...string) escort.Logins {
	return func(ctx context.Context, namespace string) iter.Seq2[escort.Login, error] {
		for _, allowed := range namespaces {
			if matched, _ := path.Match(allowed, namespace); matched { // a bad glob matches nothing
				return source(ctx)
			}
		}
		return failing(&boundError{fmt.Sprintf("credentials are for %s, not %s", list(namespaces), namespace)})
	}
}

// boundError is escort.ErrOtherNamespace with the namespaces.
type boundError struct{ text string }

func (e *boundError) Error() string { return e.text }

// Is makes it an escort.ErrOtherNamespace.
func (*boundError) Is(target error) bool { return target == escort.ErrOtherNamespace }

// None yields no login, for a phase without credentials.
func None(context.Context, string) iter.Seq2[escort.Login, error] {
	return func(func(escort.Login, error) bool) {}
}

func list(namespaces []string) string {
	switch len(namespaces) {
	case 0:
		return "no namespace"
	case 1:
		return "namespace " + namespaces[0]
	default:
		return "namespaces " + strings.Join(namespaces, ", ")
	}
}

func failing(err error) iter.Seq2[escort.Login, error] {
	return func(yield func(escort.Login, error) bool) { yield(escort.Login{}, err) }
}

// read reads one login. found is false if its absence is normal.
type read func(ctx context.Context) (login escort.Login, found bool, err error)

// inOrder returns a source that makes one read after the other, and yields no login twice. An error of a required read ends the sequence:
// a store that does not answer would use up the time of each further read. An error of an optional one says nothing about the next.
func inOrder(required []read, optional ...read) Source {
	return func(ctx context.Context) iter.Seq2[escort.Login, error] {
		return func(yield func(escort.Login, error) bool) {
			var tried []escort.Login
			for i, next := range slices.Concat(required, optional) {
				login, found, err := next(ctx)
				if err == nil && (!found || slices.Contains(tried, login)) {
					continue
				}
				tried = append(tried, login)
				if !yield(login, err) || err != nil && i < len(required) {
					return
				}
			}
		}
	}
}

// Keys are the keys of the user and the password in a secret.
type Keys struct{ User, Password string }

// RDSKeys are the keys in secrets of Amazon RDS and of the AWS rotation functions:
// https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_secret_json_structure.html.
var RDSKeys = Keys{User: "username", Password: "password"}

// Limits of a login, in bytes. They are twice what pgbouncer takes:
// https://github.com/pgbouncer/pgbouncer/blob/pgbouncer_1_24_1/include/bouncer.h (MAX_USERNAME, MAX_PASSWORD).
const (
	maxUser     = 256
	maxPassword = 4096
)

// login returns the login in a secret. Its error names the key, but no value.
func (k Keys) login(value func(key string) string) (escort.Login, error) {
	login := escort.Login{User: value(k.User), Password: value(k.Password)}
	if err := check(k.User, login.User, maxUser); err != nil {
		return escort.Login{}, err
	}
	if err := check(k.Password, login.Password, maxPassword); err != nil {
		return escort.Login{}, err
	}
	return login, nil
}

// check returns an error unless the value of a key can be sent to a console: a text that is not empty, not too long, and without the
// zero byte that ends a text in PostgreSQL's protocol.
func check(key, value string, most int) error {
	switch {
	case value == "":
		return fmt.Errorf("no text under key %s", key)
	case len(value) > most:
		return fmt.Errorf("text under key %s has more than %d bytes", key, most)
	case strings.Contains(value, "\x00"):
		return fmt.Errorf("text under key %s has a zero byte", key)
	default:
		return nil
	}
}
