package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/archive"
	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

func drainReport() termination.Report {
	start := time.Date(2026, 3, 2, 4, 5, 6, 0, time.UTC)
	r := termination.Report{Status: termination.StatusDrained, InstanceID: "i-0abc", StartedAt: start, FinishedAt: start.Add(9 * time.Second)}
	r.Pods = []drain.PodReport{{Namespace: "web", Name: "web-0", Outcome: drain.Evicted, EvictedAt: start.Add(time.Second), GoneAt: start.Add(5 * time.Second)}}
	return r
}

func TestTimeline_FileOrBucket_IsDrawn(t *testing.T) {
	folder := t.TempDir()
	encoded, err := json.Marshal(drainReport())
	require.NoError(t, err)
	report := filepath.Join(folder, "report.json")
	require.NoError(t, os.WriteFile(report, encoded, 0o600))

	got := quiescectl(t, nil, "timeline", report)
	require.Zero(t, got.status, got.progress)
	require.Contains(t, got.out, "<svg")
	require.Contains(t, got.out, "web/web-0")

	server, settings := newBucket(t)
	require.NoError(t, archive.New(settings, "reports", "prod").Store(t.Context(), drainReport()))
	page := filepath.Join(folder, "drain.html")
	got = quiescectl(t, server.Environment(server.Session("person")), "timeline", "s3://reports/prod/2026/03/02/i-0abc", "--to", page)
	require.Zero(t, got.status, got.progress)
	require.Equal(t, "wrote "+page+"\n", got.progress)
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Contains(t, string(text), "<td>web/web-0</td>")
}

func TestTimeline_WrongUse_SaysWhatToDo(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.json")
	require.NoError(t, os.WriteFile(empty, []byte(`{"status":"swept"}`), 0o600))
	for says, args := range map[string][]string{
		"missing.json: no such file":                      {"missing.json"},
		"no report of a drain":                            {empty},
		`--to must end in .svg or .html, not "drain.png"`: {empty, "--to", "drain.png"},
		"requires at least 1 arg":                         {},
	} {
		got := quiescectl(t, nil, append([]string{"timeline"}, args...)...)
		require.Equal(t, exitError, got.status)
		require.Contains(t, got.progress, says)
	}
}
