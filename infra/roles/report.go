package main

import (
	"fmt"
	"io"
	"strings"
)

// differing comes before what verify finds.
const differing = "differs: "

// report prints one line per role: created, changed, dropped or as it was, and what exactly.
func report(to io.Writer, d declaration, changes []change, tense, unchanged string) {
	for _, r := range d.Roles {
		fmt.Fprintf(to, "role %s: %s\n", bounded(r.Name), summary(r.Name, changes, tense, unchanged))
	}
}

func summary(name string, changes []change, tense, unchanged string) string {
	verb, what := "changed", []string{}
	for _, c := range changes {
		switch {
		case c.role != name || c.what == "":
		case c.what == created:
			verb = created
		case strings.HasPrefix(c.what, dropped):
			return tense + c.what
		default:
			what = append(what, c.what)
		}
	}
	switch {
	case verb != created && len(what) == 0:
		return unchanged
	case tense == differing && verb == created:
		return strings.TrimSuffix(tense+"missing; "+strings.Join(what, ", "), "; ")
	case tense == differing:
		return tense + strings.Join(what, ", ")
	case len(what) == 0:
		return tense + verb
	}
	return tense + verb + " (" + strings.Join(what, ", ") + ")"
}
