package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/stretchr/testify/require"

	"quiesce/internal/archive"
	"quiesce/internal/termination"
	"quiesce/test/parts/awstest"
)

func TestLoadReports_StoredReports_ThoseOfThePrefix(t *testing.T) {
	_, settings := newBucket(t)
	kept := archive.New(settings, "reports", "prod")
	day := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for i, instance := range []string{"i-0abc", "i-0abc", "i-0def"} {
		require.NoError(t, kept.Store(t.Context(), termination.Report{
			Status: termination.StatusDrained, InstanceID: instance, StartedAt: day.Add(time.Duration(i) * time.Hour),
		}))
	}
	for prefix, want := range map[string]int{"prod/2026/03/01/i-0abc": 2, "prod/2026/03/01/": 3, "prod/": 3} {
		reports, err := loadReports(t.Context(), settings, "reports", prefix)
		require.NoError(t, err)
		require.Len(t, reports, want, prefix)
		require.Equal(t, "i-0abc", reports[0].InstanceID)
		require.Equal(t, day, reports[0].StartedAt)
	}
	_, err := loadReports(t.Context(), settings, "reports", "test/")
	require.ErrorContains(t, err, "no report begins with s3://reports/test/: keys are <cluster>/<yyyy>")
	_, err = loadReports(t.Context(), settings, "other", "")
	require.ErrorContains(t, err, "NoSuchBucket")
}

func TestLoadReports_TooMany_RefusedBeforeAnyIsRead(t *testing.T) {
	server, settings := newBucket(t)
	kept := archive.New(settings, "reports", "prod")
	for i := range 1001 {
		require.NoError(t, kept.Store(t.Context(), termination.Report{InstanceID: fmt.Sprint("i-", i)}))
	}
	_, err := loadReports(t.Context(), settings, "reports", "prod/")
	require.ErrorContains(t, err, "give a longer prefix, such as a day")
	for _, call := range server.Calls() {
		require.NotEqual(t, "GetObject", call.Action)
	}
}

// newBucket returns an account with the bucket reports.
func newBucket(t *testing.T) (*awstest.Server, aws.Config) {
	t.Helper()
	server, err := awstest.Start()
	require.NoError(t, err)
	t.Cleanup(server.Close)
	server.AddBucket("reports")
	for _, variable := range server.Environment(server.Session("person")) {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
	settings, err := config.LoadDefaultConfig(t.Context())
	require.NoError(t, err)
	settings.HTTPClient = awstest.HTTPClient()
	return server, settings
}
