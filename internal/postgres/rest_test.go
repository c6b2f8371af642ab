package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
)

// patroni serves an answer, and returns REST that reaches it, whatever address it dials.
func patroni(t *testing.T, handle http.HandlerFunc) (rest REST, dialed *string) {
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	dialed = new(string)
	return REST{Dial: func(ctx context.Context, address string) (net.Conn, error) {
		*dialed = address
		return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}}, dialed
}

var restLeader = Member{Ref: refOf("pg-0"), IP: "10.0.0.10", API: Address{Port: 8008}}

func TestREST_Switchover_NamesLeaderAndCandidate(t *testing.T) {
	rest, dialed := patroni(t, func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		body, _ := io.ReadAll(r.Body)
		var sent map[string]string
		if r.Method != http.MethodPost || r.URL.Path != "/switchover" || user != "u" || password != "p" || json.Unmarshal(body, &sent) != nil ||
			sent["leader"] != "pg-0" || sent["candidate"] != "pg-1" || len(sent) != 2 {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	rest.Logins = loginsOf(t, escort.Login{User: "u", Password: "p"})
	require.NoError(t, rest.Switchover(t.Context(), restLeader, "pg-1"))
	require.Equal(t, "10.0.0.10:8008", *dialed)
}

func TestREST_Answers_TellRefusalFromDoubt(t *testing.T) {
	for status, want := range map[int]string{
		200: "", 202: "", 412: "refused", 400: "refused", 422: "refused", 401: "not sent", 403: "not sent", 404: "not sent",
		503: "doubt", 500: "doubt", 302: "doubt",
	} {
		rest, _ := patroni(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://169.254.169.254/")
			w.WriteHeader(status)
			_, _ = w.Write([]byte("candidate name does not match\n" + strings.Repeat("x", 1<<20)))
		})
		err := rest.Switchover(t.Context(), restLeader, "pg-1")
		_, refused := errors.AsType[*Refusal](err)
		require.Equal(t, want == "", err == nil, "%d: %v", status, err)
		require.Equal(t, want == "refused", refused, "%d: %v", status, err)
		require.Equal(t, want == "not sent", errors.Is(err, ErrNotSent), "%d: %v", status, err)
		if err != nil {
			require.ErrorContains(t, err, ": candidate name does not match xxx", "%d", status)
			require.Less(t, len(err.Error()), 2000)
		}
	}
}

// loginsOf yields the logins for the namespace of the leader.
func loginsOf(t *testing.T, logins ...escort.Login) escort.Logins {
	return func(_ context.Context, namespace string) iter.Seq2[escort.Login, error] {
		require.Equal(t, "db", namespace)
		return func(yield func(escort.Login, error) bool) {
			for _, login := range logins {
				if !yield(login, nil) {
					return
				}
			}
		}
	}
}

// A password may just have been changed. One that is wrong, or missing, is no refusal of the switchover: the way through the API is left.
func TestREST_PasswordNeeded_NextStepIsNamed(t *testing.T) {
	old, current := escort.Login{User: "u", Password: "old secret"}, escort.Login{User: "u", Password: "p"}
	asked := 0
	rest, _ := patroni(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		if _, password, _ := r.BasicAuth(); password != "p" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	for want, logins := range map[string]escort.Logins{
		"": loginsOf(t, old, current),
		"it answered 401: set restSecretRef to the login of restapi.authentication":         nil,
		"it answered 401: the login of restSecretRef is not that of restapi.authentication": loginsOf(t, old),
		"the request did not reach Patroni: no credentials configured for the namespace":    loginsOf(t),
		"the request did not reach Patroni: secret db/demo: no text under key restapi-username": func(context.Context, string) iter.Seq2[escort.Login, error] {
			return func(yield func(escort.Login, error) bool) {
				yield(escort.Login{}, errors.New("secret db/demo: no text under key restapi-username"))
			}
		},
	} {
		asked, rest.Logins = 0, logins
		err := rest.Switchover(t.Context(), restLeader, "pg-1")
		if want == "" {
			require.NoError(t, err)
			require.Equal(t, 2, asked)
			continue
		}
		require.ErrorContains(t, err, want)
		require.ErrorIs(t, err, ErrNotSent)
		require.NotContains(t, err.Error(), old.Password)
	}
}

// What may have happened is not asked for again with another login.
func TestREST_Doubt_IsAskedOnce(t *testing.T) {
	asked := 0
	rest, _ := patroni(t, func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	rest.Logins = loginsOf(t, escort.Login{User: "u", Password: "a"}, escort.Login{User: "u", Password: "b"})
	err := rest.Switchover(t.Context(), restLeader, "pg-1")
	require.ErrorContains(t, err, "503")
	require.NotErrorIs(t, err, ErrNotSent)
	require.Equal(t, 1, asked)
}

func TestREST_Unreachable_IsNotSent(t *testing.T) {
	rest := REST{Dial: func(context.Context, string) (net.Conn, error) { return nil, errors.New("no route") }}
	require.ErrorIs(t, rest.Switchover(t.Context(), restLeader, "pg-1"), ErrNotSent)
	local := restLeader
	local.IP = "127.0.0.1"
	require.ErrorIs(t, rest.Switchover(t.Context(), local, "pg-1"), ErrNotSent)
}
