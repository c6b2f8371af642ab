package escort

import (
	"slices"
	"strings"
	"unicode"

	"quiesce/internal/drain"
)

// maxText is the longest text of an escort in a report, in bytes. It has room for several reasons with the names of objects. A report has
// one for each pooler, and what is in it may come from the pod's author: a ReplicaSet can have thousands of labels.
const maxText = 1000

// Printable returns a text for a report: at most maxText bytes of valid UTF-8, on one line.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, drain.Cut(text, maxText))
}

// AddReason appends a reason to the result. An empty reason adds nothing, nor does one that is there already, or for which there is no
// room.
func AddReason(result *drain.EscortResult, reason string) {
	if slices.Contains(strings.Split(result.Reason, "; "), reason) {
		return
	}
	if result.Reason != "" && reason != "" {
		result.Reason += "; "
	}
	result.Reason = Printable(result.Reason + reason)
}
