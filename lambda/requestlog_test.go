package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// Lambda's own lines have the request ID. With it, the lines of one invocation can be found among all others.
func TestLog_DuringInvocation_LinesHaveRequestID(t *testing.T) {
	t.Cleanup(func() { requestID.Store(nil) })
	var out bytes.Buffer
	log := newLog(&out).With("instance", "i-1")
	log.Info("before")
	require.NotContains(t, out.String(), "requestId")
	for _, id := range []string{"id-1", "id-2"} {
		out.Reset()
		ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: id})
		_, err := withRequestID(func(context.Context, json.RawMessage) (any, error) {
			log.With("node", "node-1").Warn("during", "pod", "db/pooler-0")
			return nil, nil
		})(ctx, nil)
		require.NoError(t, err)
		var line map[string]string
		require.NoError(t, json.Unmarshal(out.Bytes(), &line))
		delete(line, "time")
		require.Equal(t, map[string]string{
			"level": "WARN", "msg": "during", "instance": "i-1", "node": "node-1", "pod": "db/pooler-0", "requestId": id,
		}, line)
	}
}

// One line had 1.3 MB: CloudWatch would have dropped or split it.
func TestLog_LongValues_LineFitsIntoOneEvent(t *testing.T) {
	const maxEvent = 256 * 1024
	long := strings.Repeat("\x01", 900_000) // each is six bytes of JSON
	report := termination.Report{Status: termination.StatusPartial}
	for range 500 {
		report.Pods = append(report.Pods, drain.PodReport{Name: "web", Outcome: drain.Remained, Reason: long[:1024], BlockedBy: []string{long[:2000]}})
	}
	var out bytes.Buffer
	log := newLog(&out).With("node", long)
	log.Warn(long, "error", errors.New(long), "reason", long, "pdbs", slices.Repeat([]string{"db/pgbouncer"}, 1000))
	log.Info("event handled", "report", report, "reason", long)
	for line := range strings.Lines(out.String()) {
		require.Less(t, len(line), maxEvent)
		var fields map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &fields))
		require.Contains(t, fields["reason"], " (900000 bytes)")
	}
	require.Contains(t, out.String(), `"omitted":"texts of pods`)
	require.Contains(t, out.String(), `"error":`)
}

func TestLog_ShortValues_AreUnchanged(t *testing.T) {
	var out bytes.Buffer
	newLog(&out).Warn("message", "error", errors.New("no route to host"), "receives", 3, "pdbs", []string{"db/pgbouncer"})
	require.Contains(t, out.String(), `"msg":"message","error":"no route to host","receives":3,"pdbs":["db/pgbouncer"]`)
}
