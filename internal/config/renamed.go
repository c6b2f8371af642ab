package config

import "strings"

// renamed maps each former key to its present one, and each former value (key=value) to its present one. In a path, []
// stands for any index of a list.
var renamed = map[string]string{
	"drain.concurrency":             "drain.maxConcurrentEvictions",
	"drain.joinGrace":               "drain.nodeJoinTimeout",
	"drain.onDeadline=leave":        "keep",
	"drain.reserve":                 "drain.completionReserve",
	"drain.volumeDetach":            "drain.volumeDetachTimeout",
	"phases[].escort.pgbouncer.via": "phases[].escort.pgbouncer.connectVia",
	"stack.concurrency":             "stack.maxConcurrency",
	"stack.logDays":                 "stack.logRetentionDays",
	"stack.reports":                 "stack.archiveReports",
	"stack.reserved":                "stack.reservedConcurrency",
	"stack.spotNotices":             "drain.onSpotInterruption",
}

// nowCalled returns the end of an error message that names the present key or value, or nothing.
func nowCalled(former string) string {
	pattern, index := former, "[]"
	if start, end := strings.Index(former, "["), strings.Index(former, "]"); 0 <= start && start < end {
		index = former[start : end+1]
		pattern = strings.Replace(former, index, "[]", 1)
	}
	present, known := renamed[pattern]
	if !known {
		return ""
	}
	return "; it is now " + strings.Replace(present, "[]", index, 1)
}
