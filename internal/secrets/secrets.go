// Package secrets is where the credentials of poolers' consoles come from: a Kubernetes Secret, or AWS Secrets Manager.
//
// While credentials are rotated, each pooler changes over at a time of its own: when the new file has reached its pod and
// somebody told it to reload (https://www.pgbouncer.org/usage.html#reload). So a source yields not one login but all that
// may be right at present, the likeliest first.
package secrets

import (
	"context"
	"fmt"
	"iter"
	"path"
	"quiesce/internal/escort"
	"slices"
	"strings"
)

// Source yields logins in the order in which they are to be tried: the next one is looked up only after the console refused
// the former. An error ends them. A source is asked anew for each pooler, so that a rotation in the middle of a drain breaks
// nothing. It is safe for concurrent use.
type Source func(ctx context.Context) iter.Seq2[escort.Login, error]

// Bound hands a source out to the pods of these namespaces only, which are given by name or by glob (as of path.Match). The
// pods of any other get an error in its place: a pod that merely wears a pooler's label must not be sent the password.
func Bound(source Source, namespaces ...string) func(namespace string) Source {
	return func(namespace string) Source {
		for _, allowed := range namespaces {
			if matched, _ := path.Match(allowed, namespace); matched { // a bad glob allows nothing
				return source
			}
		}
		return failing(fmt.Errorf("credentials are for %s, not %s", list(namespaces), namespace))
	}
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

func failing(err error) Source {
	return func(context.Context) iter.Seq2[escort.Login, error] {
		return func(yield func(escort.Login, error) bool) { yield(escort.Login{}, err) }
	}
}

// read looks one login up; found is false where it is normal that there is none.
type read func(ctx context.Context) (login escort.Login, found bool, err error)

// inOrder is the source that takes one look after the other, and leaves out what it has yielded before.
func inOrder(reads ...read) Source {
	return func(ctx context.Context) iter.Seq2[escort.Login, error] {
		return func(yield func(escort.Login, error) bool) {
			var tried []escort.Login
			for _, look := range reads {
				login, found, err := look(ctx)
				if err == nil && (!found || slices.Contains(tried, login)) {
					continue
				}
				tried = append(tried, login)
				if !yield(login, err) || err != nil {
					return
				}
			}
		}
	}
}

// Keys are where the user and the password are in a secret.
type Keys struct{ User, Password string }

// RDSKeys are those of the secrets that Amazon RDS and the stock rotation functions make:
// https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_secret_json_structure.html.
var RDSKeys = Keys{User: "username", Password: "password"}

// login takes both values out of a secret. The error names the key that is missing, and no value.
func (k Keys) login(value func(key string) string) (escort.Login, error) {
	login := escort.Login{User: value(k.User), Password: value(k.Password)}
	switch {
	case login.User == "":
		return escort.Login{}, fmt.Errorf("it has no text under the key %s", k.User)
	case login.Password == "":
		return escort.Login{}, fmt.Errorf("it has no text under the key %s", k.Password)
	}
	return login, nil
}
