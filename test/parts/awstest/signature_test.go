package awstest_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

const form = "Action=GetCallerIdentity&Version=2011-06-15"

// post signs one body at the given time, sends another, and returns the answer.
func post(t *testing.T, s *awstest.Server, at time.Time, signed, sent string) (status int, answer string) {
	t.Helper()
	sess := s.Session("fn")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/", strings.NewReader(sent))
	require.NoError(t, err)
	sum := sha256.Sum256([]byte(signed))
	creds := aws.Credentials{AccessKeyID: sess.AccessKeyID, SecretAccessKey: sess.SecretAccessKey, SessionToken: sess.Token}
	require.NoError(t, v4.NewSigner().SignHTTP(t.Context(), creds, req, hex.EncodeToString(sum[:]), "sts", awstest.Region, at))
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode, string(body)
}

func TestSignature_OtherBody_Refused(t *testing.T) {
	s := start(t)
	status, _ := post(t, s, time.Now(), form, form)
	require.Equal(t, http.StatusOK, status)
	status, answer := post(t, s, time.Now(), form, form+"&More=x")
	require.Equal(t, http.StatusForbidden, status)
	require.Contains(t, answer, "SignatureDoesNotMatch")
}

func TestSignature_OldOrFuture_Refused(t *testing.T) {
	s := start(t)
	for _, off := range []time.Duration{-6 * time.Minute, 6 * time.Minute} {
		status, answer := post(t, s, time.Now().Add(off), form, form)
		require.Equal(t, http.StatusForbidden, status)
		require.Contains(t, answer, "Signature expired or not yet current")
	}
}
