package eks

import (
	"context"
	"encoding/base64"
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
	server.AddCluster("prod", "https://127.0.0.1:6443", []byte("a CA"))
	access, err := Cluster{Name: "prod"}.Access(t.Context(), config)
	require.NoError(t, err)
	require.Equal(t, "https://127.0.0.1:6443", access.Host)
	require.Equal(t, "a CA", string(access.CAData))
	asked := len(server.Calls())

	access, err = Cluster{Name: "prod", Endpoint: "https://10.0.0.1", CA: []byte("given")}.Access(t.Context(), config)
	require.NoError(t, err)
	require.Equal(t, "https://10.0.0.1", access.Host)
	require.Len(t, server.Calls(), asked)
}

func TestAnUnknownClusterIsNamed(t *testing.T) {
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
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
	require.Equal(t, http.StatusOK, server.post(t, &transport{signer, http.DefaultTransport}, "evict"))
	require.Len(t, server.tokens, 2)
	require.Equal(t, []string{"evict", "evict"}, server.bodies)

	server.refuse[server.tokens[1]] = true
	signer.current = token.Token{Token: "old", Expiration: time.Now().Add(time.Hour)}
	server.refuse["old"] = true
	before := len(server.tokens)
	server.post(t, &transport{signer, http.DefaultTransport}, "evict")
	require.LessOrEqual(t, len(server.tokens)-before, 2, "a new token does not help an unknown identity")
}

func TestATokenIsRenewedInTime(t *testing.T) {
	_, config := awstest.Serve(t)
	signer, err := newSigner("prod", config)
	require.NoError(t, err)
	server := newAPIServer(t)
	through := &transport{signer, http.DefaultTransport}
	server.post(t, through, "")
	server.post(t, through, "")
	require.Equal(t, server.tokens[0], server.tokens[1], "a new token for each request would defeat the server's cache")

	signer.current.Expiration = time.Now().Add(renewBefore - time.Second)
	signer.current.Token = "about to end"
	server.post(t, through, "")
	require.NotEqual(t, "about to end", server.tokens[2])
}
