package kube

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// authorityOf returns the certificate that clients of a test server must trust.
func authorityOf(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

func TestSecret_Missing_ErrorNamesIt(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		var answer any = &corev1.Secret{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
			Data:     map[string][]byte{"username": []byte("drainer")},
		}
		if r.URL.Path != "/api/v1/namespaces/db/secrets/console" {
			status := apierrors.NewNotFound(corev1.Resource("secrets"), "other").Status()
			status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
			w.WriteHeader(http.StatusNotFound)
			answer = status
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	client, err := New(&rest.Config{Host: server.URL})
	require.NoError(t, err)

	data, err := client.Secret(t.Context(), "db", "console")
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"username": []byte("drainer")}, data)

	_, err = client.Secret(t.Context(), "db", "other")
	require.True(t, apierrors.IsNotFound(err))
	require.ErrorContains(t, err, "get secret db/other")
}
