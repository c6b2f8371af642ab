package config

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// renamedErrors are the former keys and values, each with its error. A list item has index 1.
var renamedErrors = map[string]string{
	"drain.concurrency":             "drain.concurrency: unknown key; it is now drain.maxConcurrentEvictions",
	"drain.joinGrace":               "drain.joinGrace: unknown key; it is now drain.nodeJoinTimeout",
	"drain.onDeadline=leave":        "drain.onDeadline: must be force or keep: leave; it is now keep",
	"drain.reserve":                 "drain.reserve: unknown key; it is now drain.completionReserve",
	"drain.volumeDetach":            "drain.volumeDetach: unknown key; it is now drain.volumeDetachTimeout",
	"phases[].escort.pgbouncer.via": "phases[1].escort.pgbouncer.via: unknown key; it is now phases[1].escort.pgbouncer.connectVia",
	"stack.concurrency":             "stack.concurrency: unknown key; it is now stack.maxConcurrency",
	"stack.logDays":                 "stack.logDays: unknown key; it is now stack.logRetentionDays",
	"stack.reports":                 "stack.reports: unknown key; it is now stack.archiveReports",
	"stack.reserved":                "stack.reserved: unknown key; it is now stack.reservedConcurrency",
	"stack.spotNotices":             "stack.spotNotices: unknown key; it is now drain.onSpotInterruption",
}

func TestRenamed_FormerKeyOrValue_ErrorNamesPresentOne(t *testing.T) {
	for former := range renamed {
		require.Contains(t, renamedErrors, former)
	}
	for former, want := range renamedErrors {
		require.Contains(t, renamed, former)
		path, set, valued := strings.Cut(former, "=")
		if !valued {
			set = "x"
		}
		_, err := Parse([]byte(fileWith(path, set)), func(string) string { return "" })
		require.EqualError(t, err, "quiesce.yaml:1: "+want)
	}
}

// The present name is itself a known key: its error, if there is one, is about the value.
func TestRenamed_PresentKey_IsKnown(t *testing.T) {
	for former, present := range renamed {
		if strings.Contains(former, "=") {
			continue
		}
		_, err := Parse([]byte(fileWith(present, "{}")), func(string) string { return "" })
		require.ErrorContains(t, err, "must be", present)
		require.NotContains(t, err.Error(), "unknown key", present)
	}
}

// fileWith returns a complete file, on one line, in which one more key is set.
func fileWith(path, set string) string {
	section, rest, _ := strings.Cut(path, ".")
	text := strings.ReplaceAll(rest, ".", ": {") + ": " + set + strings.Repeat("}", strings.Count(rest, "."))
	if list, is := strings.CutSuffix(section, "[]"); is {
		text = list + ": [{name: workloads}, {name: poolers, " + text + "}]"
	} else {
		text = section + ": {" + text + "}"
	}
	return "{cluster: prod, autoScalingGroups: [a], mode: drain, " + text + "}"
}
