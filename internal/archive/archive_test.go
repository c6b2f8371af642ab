package archive_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdkconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/stretchr/testify/require"

	"quiesce/internal/archive"
	"quiesce/internal/drain"
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
	config.HTTPClient = awstest.HTTPClient()
	return config
}

func TestStore_Report_KeyHasClusterDayInstanceAndTime(t *testing.T) {
	server, kept := setup(t)
	east := time.FixedZone("east", 3600)
	report := termination.Report{
		Status: termination.StatusDrained, InstanceID: "i-0abc", StartedAt: time.Date(2026, 3, 1, 0, 30, 5, 7e6, east), Reason: "deadline",
	}
	require.NoError(t, kept.Store(t.Context(), report))
	later := report
	later.StartedAt = report.StartedAt.Add(15 * time.Minute)
	require.NoError(t, kept.Store(t.Context(), later), "the next invocation of the same drain")

	keys := slices.Sorted(maps.Keys(server.Objects(bucket)))
	require.Len(t, keys, 2)
	require.Regexp(t, `^prod/2026/02/28/i-0abc-20260228T233005\.007000000Z-[A-Z2-7]{8}\.json$`, keys[0])
	require.Regexp(t, `^prod/2026/02/28/i-0abc-20260228T234505\.007000000Z-[A-Z2-7]{8}\.json$`, keys[1])
	found := stored(t, server)[0]
	require.Equal(t, "deadline", found.Reason)
	require.Equal(t, termination.StatusDrained, found.Status)
}

// stored returns the reports in the bucket, in the order of their keys.
func stored(t *testing.T, server *awstest.Server) (all []termination.Report) {
	t.Helper()
	objects := server.Objects(bucket)
	for _, key := range slices.Sorted(maps.Keys(objects)) {
		var report termination.Report
		require.NoError(t, json.Unmarshal(objects[key], &report))
		all = append(all, report)
	}
	return all
}

// A second report of the same instance and moment replaced the first.
func TestStore_SameTime_ReplacesNothing(t *testing.T) {
	server, kept := setup(t)
	at := time.Date(2026, 3, 1, 0, 30, 5, 0, time.UTC)
	for _, reason := range []string{"first", "second"} {
		require.NoError(t, kept.Store(t.Context(), termination.Report{InstanceID: "i-0abc", StartedAt: at, Reason: reason}))
	}
	reports := stored(t, server)
	require.Len(t, reports, 2)
	require.ElementsMatch(t, []string{"first", "second"}, []string{reports[0].Reason, reports[1].Reason})
	for _, call := range server.Calls() {
		require.Equal(t, "*", call.Params.Get("IfNoneMatch"))
	}
}

func TestStore_AnswerLost_StoredOnce(t *testing.T) {
	server, kept := setup(t)
	server.Fail("s3", "PutObject", awstest.Fault{Times: 1, Code: http.StatusInternalServerError, ErrorCode: "InternalError", AfterEffect: true})
	require.NoError(t, kept.Store(t.Context(), termination.Report{InstanceID: "i-0abc"}))
	require.Len(t, server.Calls(), 2)
	require.Len(t, server.Objects(bucket), 1)
}

func TestStore_LongReport_IsCut(t *testing.T) {
	server, kept := setup(t)
	report := termination.Report{InstanceID: "i-0abc"}
	for range 3 {
		report.Pods = append(report.Pods, drain.PodReport{Name: "web", Reason: strings.Repeat("x", 900_000)})
	}
	require.NoError(t, kept.Store(t.Context(), report))
	for _, body := range server.Objects(bucket) {
		require.Less(t, len(body), 1<<20)
	}
	require.Equal(t, "texts of pods", stored(t, server)[0].Omitted)
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
