package archive_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/archive"
	"quiesce/internal/termination"
)

func TestLoad_StoredReports_ThoseOfThePrefix(t *testing.T) {
	server, kept := setup(t)
	day := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for i, instance := range []string{"i-0abc", "i-0abc", "i-0def"} {
		require.NoError(t, kept.Store(t.Context(), termination.Report{
			Status: termination.StatusDrained, InstanceID: instance, StartedAt: day.Add(time.Duration(i) * time.Hour),
		}))
	}
	config := configOf(t, server)
	for prefix, want := range map[string]int{"prod/2026/03/01/i-0abc": 2, "prod/2026/03/01/": 3, "prod/": 3} {
		reports, err := archive.Load(t.Context(), config, bucket, prefix)
		require.NoError(t, err)
		require.Len(t, reports, want, prefix)
		require.Equal(t, "i-0abc", reports[0].InstanceID)
		require.Equal(t, day, reports[0].StartedAt)
	}
	_, err := archive.Load(t.Context(), config, bucket, "test/")
	require.ErrorContains(t, err, "no report begins with s3://reports/test/: keys are <cluster>/<yyyy>")
	_, err = archive.Load(t.Context(), config, "other", "")
	require.ErrorContains(t, err, "NoSuchBucket")
}

func TestLoad_TooMany_RefusedBeforeAnyIsRead(t *testing.T) {
	server, kept := setup(t)
	for i := range 1001 {
		require.NoError(t, kept.Store(t.Context(), termination.Report{InstanceID: fmt.Sprint("i-", i)}))
	}
	_, err := archive.Load(t.Context(), configOf(t, server), bucket, "prod/")
	require.ErrorContains(t, err, "give a longer prefix, such as a day")
	for _, call := range server.Calls() {
		require.NotEqual(t, "GetObject", call.Action)
	}
}
