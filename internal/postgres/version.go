package postgres

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// version is the part of a version that decides: 4.0.7 is {4, 0, 7}.
type version [3]int

// The versions that are known. Between the first and the last of Patroni, the objects and the HTTP interface that quiesce uses have not
// changed. CloudNativePG redesigns its switchover in 1.31, and before 1.29.1 does not mark the old primary.
var known = map[bool]struct{ first, beyond version }{
	true:  {version{3, 0, 0}, version{4, 2, 0}},   // Patroni
	false: {version{1, 29, 1}, version{1, 31, 0}}, // CloudNativePG
}

// tested are the versions with which moves were run.
var tested = map[bool][]string{
	true:  {"3.0.", "4.0."}, // Patroni
	false: {"1.30."},        // CloudNativePG
}

// checkVersion returns why a cluster of this version is not moved, or what is to be said of it.
func checkVersion(o Operator, text string) (hold, warning string) {
	program := "CloudNativePG"
	if o.UsesPatroni() {
		program = "Patroni"
	}
	v, ok := parseVersion(text)
	limits := known[o.UsesPatroni()]
	switch {
	case !ok:
		return fmt.Sprintf("the version of %s is not known", program), ""
	case v.before(limits.first) || !v.before(limits.beyond):
		return fmt.Sprintf("%s %s is not known to quiesce: it only assesses such clusters", program, text), ""
	case !slices.ContainsFunc(tested[o.UsesPatroni()], func(prefix string) bool { return strings.HasPrefix(text, prefix) }):
		return "", fmt.Sprintf("moves were not tested with %s %s", program, text)
	default:
		return "", ""
	}
}

func parseVersion(text string) (v version, ok bool) {
	for i, part := range strings.SplitN(text, ".", len(v)) {
		digits, _, _ := strings.Cut(part, "-") // a pre-release
		n, err := strconv.Atoi(digits)
		if err != nil || n < 0 {
			return version{}, false
		}
		v[i] = n
		ok = i > 0
	}
	return v, ok
}

// before reports whether v is an earlier version than other.
func (v version) before(other version) bool { return slices.Compare(v[:], other[:]) < 0 }
