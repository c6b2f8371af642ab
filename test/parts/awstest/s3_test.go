package awstest_test

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

// put signs one body for an object, sends another, and returns the HTTP status.
func put(t *testing.T, s *awstest.Server, path, signed, sent string, header ...string) int {
	t.Helper()
	sess := s.Session("fn")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL()+path, strings.NewReader(sent))
	require.NoError(t, err)
	sum := sha256.Sum256([]byte(signed))
	hash := hex.EncodeToString(sum[:])
	req.Header.Set("X-Amz-Content-Sha256", hash)
	for _, name := range header {
		req.Header.Set(name, "*")
	}
	creds := aws.Credentials{AccessKeyID: sess.AccessKeyID, SecretAccessKey: sess.SecretAccessKey, SessionToken: sess.Token}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	require.NoError(t, signer.SignHTTP(t.Context(), creds, req, hash, "s3", awstest.Region, time.Now()))
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

func TestBucket_SignedPut_Stored(t *testing.T) {
	s := start(t)
	s.AddBucket("reports")
	require.Equal(t, http.StatusOK, put(t, s, "/reports/prod/a%20b.json", "{}", "{}"))
	require.Equal(t, http.StatusForbidden, put(t, s, "/reports/prod/c.json", "{}", "[]"))
	require.Equal(t, http.StatusNotFound, put(t, s, "/others/prod/c.json", "{}", "{}"))
	require.Equal(t, map[string][]byte{"prod/a b.json": []byte("{}")}, s.Objects("reports"))
}

func TestBucket_PutIfNoneMatch_ReplacesNothing(t *testing.T) {
	s := start(t)
	s.AddBucket("reports")
	require.Equal(t, http.StatusOK, put(t, s, "/reports/a.json", "1", "1", "If-None-Match"))
	require.Equal(t, http.StatusPreconditionFailed, put(t, s, "/reports/a.json", "2", "2", "If-None-Match"))
	require.Equal(t, map[string][]byte{"a.json": []byte("1")}, s.Objects("reports"))
	require.Equal(t, http.StatusOK, put(t, s, "/reports/a.json", "3", "3"))
	require.Equal(t, map[string][]byte{"a.json": []byte("3")}, s.Objects("reports"))
}
