package asg

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

func TestNextStep_ErrorOfAWS_SaysWhatToDo(t *testing.T) {
	server, groups, _ := account(t)
	ask := func(status int, code string) string {
		t.Cleanup(server.Fail("autoscaling", "", awstest.Fault{Times: 1, Code: status, ErrorCode: code, Message: "no"}))
		_, err := groups.Instance(t.Context(), instance)
		require.Error(t, err)
		return NextStep(err)
	}
	require.Contains(t, ask(http.StatusForbidden, "AccessDenied"), "denies DescribeAutoScalingInstances")
	require.Contains(t, ask(http.StatusForbidden, "UnauthorizedOperation"), "make deploy again")
	require.Contains(t, ask(http.StatusNotFound, "ResourceNotFoundException"), "correct cluster")
	require.Empty(t, ask(http.StatusBadRequest, "ValidationError"))
	require.Empty(t, NextStep(errors.New("of another adapter")))
	server.Close()
	_, err := groups.Instance(t.Context(), instance)
	require.Contains(t, NextStep(err), "let the function reach AWS")
}

// noSuchName is an HTTP client whose resolver does not know any name. No request leaves the machine.
type noSuchName struct{}

func (noSuchName) Do(r *http.Request) (*http.Response, error) {
	name := &net.DNSError{Err: "no such host", Name: r.URL.Hostname(), IsNotFound: true}
	return nil, &url.Error{Op: r.Method, URL: r.URL.String(), Err: &net.OpError{Op: "dial", Net: "tcp", Err: name}}
}

func TestNextStep_NameUnknown_SaysWhoResolvesNames(t *testing.T) {
	sdk := aws.Config{Region: "eu-west-1", Credentials: aws.AnonymousCredentials{}, RetryMaxAttempts: 1, HTTPClient: noSuchName{}}
	_, err := NewGroups(sdk).Instance(t.Context(), instance)
	require.Error(t, err)
	require.Contains(t, NextStep(err), "port 53")
}
