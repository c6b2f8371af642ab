package awstest_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"os"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/aws-iam-authenticator/pkg/token"

	"quiesce/test/parts/awstest"
)

// throughProxy returns a transport that reaches STS as a verifier of tokens does: with HTTPS_PROXY and SSL_CERT_FILE.
func throughProxy(t *testing.T, s *awstest.Server) *http.Transport {
	t.Helper()
	authority, err := os.ReadFile(s.STSCAFile())
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(authority))
	proxy, err := url.Parse(s.STSProxy())
	require.NoError(t, err)
	transport := &http.Transport{
		Proxy:           http.ProxyURL(proxy),
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// verify runs the verifier of aws-iam-authenticator, which reaches STS through the default transport.
func verify(t *testing.T, s *awstest.Server, cluster string, tok token.Token) (*token.Identity, error) {
	t.Helper()
	usual := http.DefaultTransport
	defer func() { http.DefaultTransport = usual }()
	http.DefaultTransport = throughProxy(t, s)
	return token.NewVerifier(cluster, "aws", awstest.Region).Verify(tok.Token)
}

// tokenFor makes an EKS token, which names the real STS.
func tokenFor(t *testing.T, s *awstest.Server, sess awstest.Session, cluster string) token.Token {
	t.Helper()
	generator, err := token.NewGenerator(false, false)
	require.NoError(t, err)
	cfg := configOf(s, sess)
	cfg.BaseEndpoint = nil
	tok, err := generator.GetWithSTS(cluster, sts.NewFromConfig(cfg))
	require.NoError(t, err)
	return tok
}

func TestToken_OwnCluster_VerifiedThroughProxy(t *testing.T) {
	s := start(t)
	sess := s.Session("fn")
	who, err := verify(t, s, "prod", tokenFor(t, s, sess, "prod"))
	require.NoError(t, err)
	require.Equal(t, s.RoleARN(), who.CanonicalARN)
	require.Equal(t, "arn:aws:sts::111122223333:assumed-role/quiesce/fn", who.ARN)
	require.Equal(t, "fn", who.SessionName)
	require.Equal(t, awstest.Account, who.AccountID)
	calls := s.CallsOf(sess)
	require.Len(t, calls, 1)
	require.Equal(t, "sts GetCallerIdentity", calls[0].Service+" "+calls[0].Action)
}

func TestToken_OtherCluster_Refused(t *testing.T) {
	s := start(t)
	_, err := verify(t, s, "prod", tokenFor(t, s, s.Session("fn"), "test"))
	require.ErrorContains(t, err, "SignatureDoesNotMatch")
}

func TestToken_WrongSecretOrUnknownKey_Refused(t *testing.T) {
	s := start(t)
	sess := s.Session("fn")
	sess.SecretAccessKey += "x"
	_, err := verify(t, s, "prod", tokenFor(t, s, sess, "prod"))
	require.ErrorContains(t, err, "SignatureDoesNotMatch")
	sess.AccessKeyID = "ASIAUNKNOWN"
	_, err = verify(t, s, "prod", tokenFor(t, s, sess, "prod"))
	require.ErrorContains(t, err, "InvalidClientTokenId")
	require.ErrorContains(t, err, "got 403")
}

func TestToken_STSThrottled_VerifierToldSo(t *testing.T) {
	s := start(t)
	s.Fail("sts", "GetCallerIdentity", awstest.Fault{Times: 1, Code: http.StatusBadRequest, ErrorCode: "Throttling", Message: "Rate exceeded"})
	_, err := verify(t, s, "prod", tokenFor(t, s, s.Session("fn"), "prod"))
	var throttled token.STSThrottling
	require.ErrorAs(t, err, &throttled)
}

func TestPresignedRequest_NoCluster_Refused(t *testing.T) {
	s := start(t)
	cfg := config(s)
	cfg.BaseEndpoint = nil
	presigned, err := sts.NewPresignClient(sts.NewFromConfig(cfg)).PresignGetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, presigned.URL, nil)
	require.NoError(t, err)
	resp, err := throughProxy(t, s).RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusForbidden, resp.StatusCode)
}

func TestProxy_OtherHost_Refused(t *testing.T) {
	s := start(t)
	for _, elsewhere := range []string{"https://sts.us-east-1.amazonaws.com/", "https://example.com/", "http://example.com/"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, elsewhere, nil)
		require.NoError(t, err)
		resp, err := throughProxy(t, s).RoundTrip(req)
		if err == nil { // a plain request is answered by the proxy itself
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusForbidden, resp.StatusCode)
			continue
		}
		require.ErrorContains(t, err, "Forbidden")
	}
}

func TestCAFile_ServerClosed_Removed(t *testing.T) {
	s, err := awstest.Start()
	require.NoError(t, err)
	require.FileExists(t, s.STSCAFile())
	s.Close()
	require.NoFileExists(t, s.STSCAFile())
}
