package awstest

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/stretchr/testify/require"
)

// Serve starts a server for one test, and returns it with the AWS configuration of a function in its account.
func Serve(t *testing.T) (*Server, aws.Config) {
	t.Helper()
	server, err := Start()
	require.NoError(t, err)
	t.Cleanup(server.Close)
	for _, setting := range server.Environment(server.Session("function")) {
		key, value, _ := strings.Cut(setting, "=")
		t.Setenv(key, value)
	}
	settings, err := config.LoadDefaultConfig(t.Context())
	require.NoError(t, err)
	settings.HTTPClient = HTTPClient()
	return server, settings
}

// HTTPClient returns the client with which tests send AWS requests that they count, or do not repeat.
func HTTPClient() aws.HTTPClient { return plainBodies{awshttp.NewBuildableClient()} }

// plainBodies hides the WriteTo method of request bodies, so that tests can count requests. Otherwise, over loopback, the SDK cannot read
// one in ten large responses, and sends the request again, or fails. internal/wire/sdk.go, which does the same for the function, has the
// reason.
type plainBodies struct{ aws.HTTPClient }

// Do sends the request.
func (c plainBodies) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return c.HTTPClient.Do(r)
}
