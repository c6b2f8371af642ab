package doctor

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	Info     Severity = "info"     // it is worth knowing
	Warning  Severity = "warning"  // a drain is slow, or a part of the workload loses connections, or is down for a while
	Critical Severity = "critical" // nodes go undrained, or data or a whole service is lost
)

// rank orders severities, the worst first.
var rank = map[Severity]int{Critical: 0, Warning: 1, Info: 2}

// AtLeast reports whether the severity is this one or a worse one.
func (s Severity) AtLeast(other Severity) bool { return rank[s] <= rank[other] }

// Finding is one thing that would go wrong.
type Finding struct {
	Severity Severity `json:"severity"`
	Check    string   `json:"check"` // the check that found it; this name does not change
	Where    string   `json:"where"` // the object
	What     string   `json:"what"`
	Cost     string   `json:"cost"`
	Fix      string   `json:"fix"`
	Command  string   `json:"command,omitempty"` // that mends it, or shows more
}

// Report is the result of all checks.
type Report struct {
	Findings []Finding `json:"findings"` // the worst first
	Checks   int       `json:"checks"`   // that were made
	Summary  Summary   `json:"summary"`
}

// Summary counts findings, and what was looked at.
type Summary struct {
	Critical int `json:"critical"`
	Warning  int `json:"warning"`
	Info     int `json:"info"`
	Nodes    int `json:"nodes"`
	Pods     int `json:"pods"`
	Groups   int `json:"groups"`
}

// HasAtLeast reports whether a finding has this severity or a worse one.
func (r Report) HasAtLeast(limit Severity) bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity.AtLeast(limit) })
}

// check looks for one kind of problem.
type check struct {
	name string // of its findings
	find func(*view) []Finding
}

// checks has every check, in the order of the page.
var checks = slices.Concat(readingChecks, groupChecks, nodeChecks, workloadChecks, poolerChecks, databaseChecks, volumeChecks, quiesceChecks)

// Names returns the names of all checks.
func Names() (names []string) {
	for _, c := range checks {
		names = append(names, c.name)
	}
	return names
}

// Examine makes all checks. A namespace limits the findings to those about its objects, and to what could not be read; empty: all.
func Examine(s Snapshot, namespace string) Report {
	v := newView(s)
	v.asked = namespace
	r := Report{Findings: []Finding{}, Checks: len(checks)}
	for _, c := range checks {
		for _, f := range c.find(v) {
			f.Check = c.name
			r.Findings = append(r.Findings, f)
		}
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return cmp.Compare(rank[a.Severity], rank[b.Severity]) })
	r.Summary = Summary{Nodes: len(s.Nodes), Pods: len(s.Pods), Groups: len(s.Groups)}
	r = r.in(namespace)
	r.count()
	return r
}

// isAsked reports whether findings name objects of this namespace. A check that names only a few of many objects asks before.
func (v *view) isAsked(namespace string) bool { return v.asked == "" || v.asked == namespace }

func (r *Report) count() {
	for _, f := range r.Findings {
		switch f.Severity {
		case Critical:
			r.Summary.Critical++
		case Warning:
			r.Summary.Warning++
		default:
			r.Summary.Info++
		}
	}
}

// in returns the report with only the findings about objects of one namespace, and what could not be read; empty: all.
func (r Report) in(namespace string) Report {
	if namespace == "" {
		return r
	}
	kept := []Finding{}
	for _, f := range r.Findings {
		if strings.Contains(f.Where+" "+f.What, " "+namespace+"/") || f.Check == readingChecks[0].name {
			kept = append(kept, f)
		}
	}
	r.Findings = kept
	return r
}

// maxNamed bounds the objects that one finding names.
const maxNamed = 4

// named joins names, at most a few of them, in order.
func named(names []string) string {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	if more := len(names) - maxNamed; more > 0 {
		return strings.Join(names[:maxNamed], ", ") + fmt.Sprintf(" and %d more", more)
	}
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
}

// Quote returns a name as an argument of a shell.
func Quote(name string) string {
	if plain().MatchString(name) {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}

var plain = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[\w./:@%+=,-]+$`) })

// plural returns the count with its noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
