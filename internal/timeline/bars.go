package timeline

import (
	"fmt"
	"strings"
	"time"

	"quiesce/internal/drain"
)

// The classes of a pod's bars, in the order in which they follow each other.
const (
	waits   = "waits"   // its phase has begun, and it was not asked to leave yet
	blocked = "blocked" // a PDB refused its eviction
	stops   = "stops"   // it was told to stop, and has its grace period
	forced  = "forced"  // it was deleted to meet the deadline
	held    = "held"    // its clients wait, over the other bars
)

// legend has the words of each class.
var legend = [][2]string{
	{waits, "may leave"}, {blocked, "blocked by a PDB"}, {stops, "told to stop (grace period)"}, {forced, "deleted to meet the deadline"},
	{held, "clients wait"},
}

// bar is one part of a pod's time.
type bar struct {
	class    string
	from, to time.Time
}

// bars returns the parts of a pod's time that are known. A part without a known end lasts until end.
func bars(p drain.PodReport, phaseStarted, end time.Time) []bar {
	if !p.GoneAt.IsZero() {
		end = p.GoneAt
	}
	begun := []bar{{waits, phaseStarted, end}, {blocked, p.BlockedAt, end}, {stops, p.EvictedAt, end}, {forced, p.ForcedAt, end}}
	var parts []bar
	for _, b := range begun {
		if b.from.IsZero() || b.from.After(end) {
			continue
		}
		if last := len(parts) - 1; last >= 0 {
			if b.from.Before(parts[last].from) { // in an earlier invocation
				b.from = parts[last].from
			}
			parts[last].to = b.from
		}
		parts = append(parts, b)
	}
	return parts
}

// note says in a few words what is special about a pod. Empty: nothing.
func note(p drain.PodReport, clientsWaited time.Duration) string {
	var words []string
	if p.Outcome != drain.Evicted {
		words = append(words, string(p.Outcome))
	}
	if len(p.BlockedBy) > 0 {
		words = append(words, "PDB "+strings.Join(p.BlockedBy, ", "))
	}
	if p.Escort != nil {
		words = append(words, strings.TrimSpace(p.Escort.Kind+" "+p.Escort.Strategy))
		if p.Escort.AbortedTransactions > 0 {
			words = append(words, fmt.Sprintf("%d transactions aborted", p.Escort.AbortedTransactions))
		}
	}
	if clientsWaited > 0 {
		words = append(words, "clients waited "+short(clientsWaited))
	}
	return drain.Cut(strings.Join(words, " · "), maxNote)
}

// maxNote bounds a note, in bytes: it must fit beside the bars. The table of a page has all of it.
const maxNote = 90

// explanation is what a viewer shows while the pointer is on a pod.
func explanation(p drain.PodReport, start time.Time) string {
	lines := []string{p.Namespace + "/" + p.Name}
	for _, moment := range []struct {
		what string
		at   time.Time
	}{{"blocked", p.BlockedAt}, {"told to stop", p.EvictedAt}, {"deleted", p.ForcedAt}, {"gone", p.GoneAt}} {
		if !moment.at.IsZero() {
			lines = append(lines, moment.what+" after "+short(moment.at.Sub(start)))
		}
	}
	if p.Reason != "" {
		lines = append(lines, p.Reason)
	}
	if p.Escort != nil && p.Escort.Reason != "" {
		lines = append(lines, p.Escort.Reason)
	}
	return strings.Join(lines, "\n")
}

// short formats a duration for people: tenths of a second below a minute, seconds above.
func short(d time.Duration) string {
	if d < time.Minute {
		return d.Round(100 * time.Millisecond).String()
	}
	words := d.Round(time.Second).String()
	for _, nothing := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(words, nothing) {
			words = words[:len(words)-len("0s")]
		}
	}
	return words
}
