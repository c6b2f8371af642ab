package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"io"
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
	rest.Login = func(context.Context, string) (escort.Login, error) {
		return escort.Login{User: "u", Password: "p"}, nil
	}
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
			require.Less(t, len(err.Error()), 2000)
		}
	}
}

func TestREST_Unreachable_IsNotSent(t *testing.T) {
	rest := REST{Dial: func(context.Context, string) (net.Conn, error) { return nil, errors.New("no route") }}
	require.ErrorIs(t, rest.Switchover(t.Context(), restLeader, "pg-1"), ErrNotSent)
	local := restLeader
	local.IP = "127.0.0.1"
	require.ErrorIs(t, rest.Switchover(t.Context(), local, "pg-1"), ErrNotSent)
}
