package escort

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	admin = Login{User: "admin", Password: "the admin's password"}
	wrong = Login{User: "admin", Password: "an old password"}
	other = Login{User: "other", Password: "the other's password"}

	errRefused = errors.New("refused")
	errMissing = errors.New("no such secret")
)

func isRefused(err error) bool { return errors.Is(err, errRefused) }

// attempt is one login that a source yields.
type attempt struct {
	login Login
	err   error
}

// source yields these attempts and counts them.
func source(asked *int, attempts ...attempt) iter.Seq2[Login, error] {
	return func(yield func(Login, error) bool) {
		for _, a := range attempts {
			*asked++
			if !yield(a.login, a.err) {
				return
			}
		}
	}
}

// server opens a console for admin, named after the user, and records all logins.
func server(seen *[]Login) func(Login) (string, error) {
	return func(l Login) (string, error) {
		*seen = append(*seen, l)
		if l == admin {
			return l.User, nil
		}
		return "", errRefused
	}
}

func TestLogIn_Refused_TriesTheNextLoginOnce(t *testing.T) {
	var asked int
	var seen []Login
	console, err := LogIn(source(&asked, attempt{login: wrong}, attempt{login: wrong}, attempt{login: admin}, attempt{login: other}),
		server(&seen), isRefused)
	require.NoError(t, err)
	require.Equal(t, "admin", console)
	require.Equal(t, []Login{wrong, admin}, seen)
	require.Equal(t, 3, asked, "a login after the accepted one is not read")
}

func TestLogIn_OtherFailure_TriesNoFurtherLogin(t *testing.T) {
	var asked int
	unreachable := errors.New("unreachable")
	open := func(Login) (string, error) { return "", unreachable }
	_, err := LogIn(source(&asked, attempt{login: wrong}, attempt{login: admin}), open, isRefused)
	require.ErrorIs(t, err, unreachable)
	require.Equal(t, 1, asked)
}

func TestLogIn_LoginCannotBeRead_TriesTheNext(t *testing.T) {
	var asked int
	var seen []Login
	_, err := LogIn(source(&asked, attempt{err: errMissing}, attempt{login: admin}), server(&seen), isRefused)
	require.NoError(t, err)

	_, err = LogIn(source(&asked, attempt{login: wrong}, attempt{err: errMissing}), server(&seen), isRefused)
	require.ErrorIs(t, err, errMissing)
	require.ErrorIs(t, err, errRefused)
}

func TestLogIn_NoLogins_SaysSo(t *testing.T) {
	var asked int
	var seen []Login
	_, err := LogIn(source(&asked), server(&seen), isRefused)
	require.ErrorIs(t, err, ErrNoLogin)
	require.Empty(t, seen)
}

func TestLogin_Printed_HidesPassword(t *testing.T) {
	var printed bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		require.Equal(t, admin.User, fmt.Sprintf(verb, admin))
		fmt.Fprintf(&printed, verb+"\n", &admin)
		fmt.Fprintf(&printed, verb+"\n", []Login{admin})
		fmt.Fprintf(&printed, verb+"\n", struct{ Logins []Login }{[]Login{admin}})
	}
	fmt.Fprintf(&printed, "%T\n", admin)
	require.Equal(t, admin.User, admin.String())
	require.Equal(t, admin.User, admin.GoString())
	fmt.Fprintln(&printed, fmt.Errorf("refused: %v", admin))
	log := slog.New(slog.NewJSONHandler(&printed, nil))
	log.Info("login", "login", admin, "pointer", &admin, "logins", []Login{admin}, "byNamespace", map[string]Login{"db": admin})
	slog.New(slog.NewTextHandler(&printed, nil)).Info("login", "login", admin, "logins", []Login{admin})
	require.NoError(t, json.NewEncoder(&printed).Encode(map[string]any{"login": admin, "logins": []*Login{&admin}}))

	require.Contains(t, printed.String(), admin.User)
	require.NotContains(t, printed.String(), admin.Password)
	require.NotContains(t, printed.String(), fmt.Sprintf("%x", admin.Password))
	require.NotContains(t, printed.String(), fmt.Sprintf("%d", []byte(admin.Password)))
}
