package archive_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdkconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/stretchr/testify/require"

	"quiesce/internal/archive"
	"quiesce/internal/termination"
	"quiesce/test/parts/awstest"
)

const bucket = "reports"

// setup returns AWS with a bucket, and an archive in that bucket.
func setup(t *testing.T) (*awstest.Server, *archive.Archive) {
	t.Helper()
	server, err := awstest.Start()
	require.NoError(t, err)
	t.Cleanup(server.Close)
	server.AddBucket(bucket)
	return server, archive.New(configOf(t, server), bucket, "prod")
}

func configOf(t *testing.T, server *awstest.Server) aws.Config {
	t.Helper()
	for _, variable := range server.Environment(server.Session("function")) {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
	config, err := sdkconfig.LoadDefaultConfig(t.Context())
	require.NoError(t, err)
	return config
}

func TestStore_KeyHasClusterDayInstanceAndTime(t *testing.T) {
	server, kept := setup(t)
	east := time.FixedZone("east", 3600)
	report := termination.Report{
		Status: termination.StatusDrained, InstanceID: "i-0abc", StartedAt: time.Date(2026, 3, 1, 0, 30, 5, 7e6, east), Reason: "deadline",
	}
	require.NoError(t, kept.Store(t.Context(), report))
	later := report
	later.StartedAt = report.StartedAt.Add(15 * time.Minute)
	require.NoError(t, kept.Store(t.Context(), later), "the next invocation of the same drain")

	objects := server.Objects(bucket)
	require.Len(t, objects, 2)
	require.Contains(t, objects, "prod/2026/02/28/i-0abc-20260228T234505.007Z.json")
	var found termination.Report
	require.NoError(t, json.Unmarshal(objects["prod/2026/02/28/i-0abc-20260228T233005.007Z.json"], &found))
	require.Equal(t, "deadline", found.Reason)
	require.Equal(t, termination.StatusDrained, found.Status)
}

// The function has one permission: to add objects. The bucket decides how they are encrypted.
func TestStore_OneReport_SendsOnePutObject(t *testing.T) {
	server, kept := setup(t)
	require.NoError(t, kept.Store(t.Context(), termination.Report{InstanceID: "i-0abc"}))
	calls := server.Calls()
	require.Len(t, calls, 1)
	require.Equal(t, "s3:PutObject", calls[0].Service+":"+calls[0].Action)
	require.Equal(t, http.StatusOK, calls[0].Code)
	require.Equal(t, "application/json", calls[0].Params.Get("ContentType"))
}

func TestStore_NoBucket_ErrorSaysWhy(t *testing.T) {
	server, _ := setup(t)
	err := archive.New(configOf(t, server), "another", "prod").Store(t.Context(), termination.Report{InstanceID: "i-0abc"})
	require.ErrorContains(t, err, "archive the report of i-0abc")
	require.ErrorContains(t, err, "NoSuchBucket")
}
