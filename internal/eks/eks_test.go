package eks

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/aws-iam-authenticator/pkg/token"

	"quiesce/test/parts/awstest"
)

func TestAccess_EndpointAndCASet_DoesNotAskEKS(t *testing.T) {
	server, config := awstest.Serve(t)
	ca := certificate(t)
	server.AddCluster("prod", "https://127.0.0.1:6443", ca)
	access, err := Cluster{Name: "prod"}.Access(t.Context(), config)
	require.NoError(t, err)
	require.Equal(t, "https://127.0.0.1:6443", access.Host)
	require.Equal(t, ca, access.CAData)
	asked := len(server.Calls())

	access, err = Cluster{Name: "prod", Endpoint: "https://10.0.0.1", CA: ca}.Access(t.Context(), config)
	require.NoError(t, err)
	require.Equal(t, "https://10.0.0.1", access.Host)
	require.Len(t, server.Calls(), asked)
}

// certificate returns a certificate in PEM.
func certificate(t *testing.T) []byte {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

// An answer without a CA and with http:// was accepted: the token went over the network in clear text.
func TestAccess_UnsafeAddress_IsAnError(t *testing.T) {
	server, config := awstest.Serve(t)
	ca := certificate(t)
	for want, c := range map[string]Cluster{
		`the endpoint must be https:// and a host, not "http://10.0.0.1"`:  {Endpoint: "http://10.0.0.1", CA: ca},
		`the endpoint must be https:// and a host, not "10.0.0.1:443"`:     {Endpoint: "10.0.0.1:443", CA: ca},
		`the endpoint must be https:// and a host, not "https://"`:         {Endpoint: "https://", CA: ca},
		`the endpoint must be https:// and a host, not "https://:443"`:     {Endpoint: "https://:443", CA: ca},
		`the endpoint must be https:// and a host, not "https://u:p@host"`: {Endpoint: "https://u:p@host", CA: ca},
		"it has no endpoint yet":              {CA: ca},
		"it has no certificate authority yet": {Endpoint: "https://10.0.0.1"},
		"the CA is no certificate in PEM":     {Endpoint: "https://10.0.0.1", CA: []byte("a CA")},
		"the CA is no certificate: x509":      {Endpoint: "https://10.0.0.1", CA: []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")},
	} {
		server.AddCluster("prod", c.Endpoint, c.CA)
		_, err := Cluster{Name: "prod"}.Access(t.Context(), config)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "cluster prod")
		if c.Endpoint != "" && len(c.CA) > 0 {
			c.Name = "prod"
			_, err = c.Access(t.Context(), config)
			require.ErrorContains(t, err, want, "configured")
		}
	}
}

func TestTransport_NoTLS_TokenIsNotSent(t *testing.T) {
	_, config := awstest.Serve(t)
	signer, err := newSigner("prod", config)
	require.NoError(t, err)
	sent := false
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { sent = true }))
	t.Cleanup(server.Close)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	require.NoError(t, err)
	_, err = (&transport{signer, http.DefaultTransport}).RoundTrip(request)
	require.ErrorContains(t, err, "without TLS")
	require.False(t, sent)
}

func TestAccess_UnknownCluster_ErrorNamesIt(t *testing.T) {
	_, config := awstest.Serve(t)
	_, err := Cluster{Name: "nowhere"}.Access(t.Context(), config)
	require.ErrorContains(t, err, "describe cluster nowhere")
}

// Every authenticator rejects a token that names another host than AWS's own.
func TestToken_OtherSTSEndpointSet_NamesRegionalSTS(t *testing.T) {
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
	t.Setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
	_, config := awstest.Serve(t)
	signer, err := newSigner("prod", config)
	require.NoError(t, err)
	text, err := signer.token()
	require.NoError(t, err)
	presigned, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, "k8s-aws-v1."))
	require.NoError(t, err)
	parsed, err := url.Parse(string(presigned))
	require.NoError(t, err)
	require.Equal(t, "https", parsed.Scheme)
	require.Equal(t, "sts."+awstest.Region+".amazonaws.com", parsed.Host)
	require.Contains(t, parsed.Query().Get("X-Amz-SignedHeaders"), "x-k8s-aws-id")
}

// apiServer answers 401 to the tokens in refuse, and records all tokens and bodies.
type apiServer struct {
	*httptest.Server
	refuse map[string]bool
	tokens []string
	bodies []string
}

func newAPIServer(t *testing.T) *apiServer {
	s := &apiServer{refuse: map[string]bool{}}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		text := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		s.tokens, s.bodies = append(s.tokens, text), append(s.bodies, string(body))
		if s.refuse[text] {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *apiServer) post(t *testing.T, through *transport, body string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, s.URL, strings.NewReader(body))
	require.NoError(t, err)
	response, err := through.RoundTrip(request)
	require.NoError(t, err)
	response.Body.Close()
	return response.StatusCode
}

func TestTransport_TokenRefused_RetriesOnceWithNewToken(t *testing.T) {
	_, config := awstest.Serve(t)
	signer, err := newSigner("prod", config)
	require.NoError(t, err)
	signer.current = token.Token{Token: "old", Expiration: time.Now().Add(time.Hour)}
	server := newAPIServer(t)
	server.refuse["old"] = true
	require.Equal(t, http.StatusOK, server.post(t, &transport{signer, server.Client().Transport}, "evict"))
	require.Len(t, server.tokens, 2)
	require.Equal(t, []string{"evict", "evict"}, server.bodies)

	server.refuse[server.tokens[1]] = true
	signer.current = token.Token{Token: "old", Expiration: time.Now().Add(time.Hour)}
	server.refuse["old"] = true
	before := len(server.tokens)
	server.post(t, &transport{signer, server.Client().Transport}, "evict")
	require.LessOrEqual(t, len(server.tokens)-before, 2, "a new token does not help an unknown identity")
}

func TestToken_EndsSoon_IsRenewed(t *testing.T) {
	_, config := awstest.Serve(t)
	signer, err := newSigner("prod", config)
	require.NoError(t, err)
	server := newAPIServer(t)
	through := &transport{signer, server.Client().Transport}
	server.post(t, through, "")
	server.post(t, through, "")
	require.Equal(t, server.tokens[0], server.tokens[1], "a new token for each request would defeat the server's cache")

	signer.current.Expiration = time.Now().Add(renewBefore - time.Second)
	signer.current.Token = "about to end"
	server.post(t, through, "")
	require.NotEqual(t, "about to end", server.tokens[2])
}
