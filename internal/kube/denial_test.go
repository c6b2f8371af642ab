package kube

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"quiesce/internal/escort"
)

// A person must read why a request was denied. Only the server knows.
func TestRequests_Denied_ServersWordsAreInTheError(t *testing.T) {
	const words = `admission webhook "databases.example.com" denied the request: no switchover on Fridays`
	for code, reason := range map[int]string{http.StatusForbidden: "Forbidden", http.StatusBadRequest: "BadRequest", http.StatusUnprocessableEntity: "Invalid"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"admission webhook \"databases.example.com\" denied the request: ` +
				`no switchover on Fridays","reason":"` + reason + `","code":403}`))
		}))
		defer server.Close()
		client, err := New(&rest.Config{Host: server.URL})
		require.NoError(t, err)
		f := escort.Failover{Kind: "configmaps", Namespace: "db", Name: "pg-failover", Leader: "pg-0", Candidate: "pg-1", At: time.Now()}
		_, err = client.RequestSwitchover(t.Context(), f)
		require.ErrorContains(t, err, words, "created")
		f.Version = "1"
		_, err = client.RequestSwitchover(t.Context(), f)
		require.ErrorContains(t, err, words, "changed")
		require.ErrorContains(t, client.WithdrawSwitchover(t.Context(), f, "1"), words, "withdrawn")
		_, err = client.RequestPrimary(t.Context(), escort.NewPrimary{Namespace: "db", Cluster: "pg", Version: "1", Candidate: "pg-1", At: time.Now()})
		require.ErrorContains(t, err, words, "CloudNativePG")
		_, err = client.GetFromPod(t.Context(), refNamed("db", "pg-0", "u"), 8008, false, "/patroni")
		require.ErrorContains(t, err, words, "asked through the proxy")
		_, err = client.Annotated(t.Context(), "configmaps", "db", "pg-leader")
		require.ErrorContains(t, err, words, "read")
	}
}
