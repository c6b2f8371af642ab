package awstest

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
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
	return server, settings
}
