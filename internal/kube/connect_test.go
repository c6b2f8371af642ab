package kube

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
)

func TestConnector_FirstAttemptFails_RetriesThenReuses(t *testing.T) {
	asked := 0
	connect := Connector(func(context.Context) (*rest.Config, error) {
		if asked++; asked == 1 {
			return nil, errors.New("throttled")
		}
		return &rest.Config{Host: "https://127.0.0.1:1"}, nil
	}, false)
	_, err := connect(t.Context())
	require.ErrorContains(t, err, "throttled")
	first, err := connect(t.Context())
	require.NoError(t, err)
	second, err := connect(t.Context())
	require.NoError(t, err)
	require.Same(t, first, second)
	require.Equal(t, 2, asked)
}

// A cluster was deleted, and made again under its name: with another CA at another address. The old address has no server, or another one.
func TestConnector_ClusterMadeAgain_ConnectsToTheNewOne(t *testing.T) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind": "LeaseList", "apiVersion": "coordination.k8s.io/v1"}`))
	})
	now := httptest.NewTLSServer(answer)
	defer now.Close()
	right := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: now.Certificate().Raw})
	for name, old := range map[string]rest.Config{
		"another CA": {Host: now.URL, TLSClientConfig: rest.TLSClientConfig{CAData: certificate(t)}},
		"no such host": {
			Host: "https://old.test", TLSClientConfig: rest.TLSClientConfig{CAData: right},
			Dial: func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.DNSError{Err: "no such host", Name: "old.test", IsNotFound: true}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			connect := Connector(func(context.Context) (*rest.Config, error) {
				if asked++; asked == 1 {
					return &old, nil
				}
				return &rest.Config{Host: now.URL, TLSClientConfig: rest.TLSClientConfig{CAData: right}}, nil
			}, false)
			for _, works := range []bool{false, true, true} {
				client, err := connect(t.Context())
				require.NoError(t, err)
				_, err = client.Leases(t.Context())
				require.Equal(t, works, err == nil, "%v", err)
			}
			require.Equal(t, 2, asked)
		})
	}
}

// A server that does not answer is where it was: EKS is not asked for it again and again.
func TestIsElsewhere_ServerDoesNotAnswer_IsNot(t *testing.T) {
	for _, err := range []error{
		context.DeadlineExceeded, syscall.ECONNREFUSED, syscall.ECONNRESET, &net.DNSError{IsTimeout: true}, &net.DNSError{IsTemporary: true}, io.EOF,
	} {
		require.False(t, isElsewhere(err), "%v", err)
	}
}

// certificate returns a certificate of no server.
func certificate(t *testing.T) []byte {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
