package postgres

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// version is the part of a version that decides: 4.0.7 is {4, 0, 7}.
type version [3]int

// program is what moves a primary, with the versions that are known: from the first on, and before the one beyond.
type program struct {
	name          string
	first, beyond version
	tested        []string // prefixes of the versions with which moves were run
}

var (
	// patroniProgram: between the first and the last, the objects and the HTTP interface that quiesce uses have not changed.
	patroniProgram = program{"Patroni", version{3, 0, 0}, version{4, 2, 0}, []string{"3.0.", "4.0."}}
	// cnpgProgram redesigns its switchover in 1.31, and before 1.29.1 does not mark the old primary.
	cnpgProgram = program{"CloudNativePG", version{1, 29, 1}, version{1, 31, 0}, []string{"1.30."}}
)

func programOf(o Operator) program {
	if o.UsesPatroni() {
		return patroniProgram
	}
	return cnpgProgram
}

// checkVersion returns why a cluster of this version is not moved, or what is to be said of it.
func checkVersion(o Operator, text string) (hold, warning string) {
	program := programOf(o)
	v, ok := parseVersion(text)
	switch {
	case !ok:
		return fmt.Sprintf("the version of %s is not known", program.name), ""
	case v.before(program.first) || !v.before(program.beyond):
		return fmt.Sprintf("%s %s is not known to quiesce: it only assesses such clusters", program.name, text), ""
	case !slices.ContainsFunc(program.tested, func(prefix string) bool { return strings.HasPrefix(text, prefix) }):
		return "", fmt.Sprintf("moves were not tested with %s %s", program.name, text)
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
