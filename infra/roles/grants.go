package main

import (
	"fmt"
	"slices"
	"strings"
)

// grantKey is what one declared grant is about.
type grantKey struct{ role, on, database, schema, createdBy string }

func keyOf(r role, g grant) grantKey {
	return grantKey{r.Name, g.On, g.Database, g.Schema, g.CreatedBy}
}

// granted is what the role may do with the objects of one grant. Objects that it owns are not among them: an owner may do everything.
type granted struct {
	missing string   // the database or schema that is not there
	objects []object // for future objects: one, which stands for all of them
}

// object is one object, and the privileges on it that the role has from the object's owner: not through a group, and not from PUBLIC.
type object struct {
	name       string
	identity   string // as SQL names it, with its schema, and a routine with its arguments; empty for a database or schema
	privileges []string
	grantable  []string // those among them that the role may grant to others
}

// nouns are the kinds in statements about objects of a schema, which add an S for all of them. Functions and procedures together are
// routines.
var nouns = map[string]string{onTables: "TABLE", onSequences: "SEQUENCE", onFunctions: "ROUTINE"}

// planGrant returns the statements that give what is missing, and take away what is too much. No declared privilege may be granted to
// others.
func planGrant(r role, g grant, s server) (changes []change) {
	have := s.granted[keyOf(r, g)]
	add := func(privilege string, want bool, differs func(object) bool) {
		var names, identities []string
		for _, o := range have.objects {
			if differs(o) {
				names, identities = append(names, o.name), append(identities, o.identity)
			}
		}
		if len(names) > 0 {
			changes = append(changes, change{
				role: r.Name, what: describe(privilege, want, g, names), database: g.Database, sql: grantSQL(privilege, want, r, g, identities),
			})
		}
	}
	for _, privilege := range privilegesOn[g.On] {
		want := slices.Contains(g.Privileges, privilege)
		add(privilege, want, func(o object) bool { return slices.Contains(o.privileges, privilege) != want })
		if want {
			add("GRANT OPTION FOR "+privilege, false, func(o object) bool { return slices.Contains(o.grantable, privilege) })
		}
	}
	return changes
}

func describe(privilege string, want bool, g grant, differ []string) string {
	text := privilege + " on "
	if !want {
		text = "no " + text
	}
	switch {
	case g.CreatedBy != "" || g.On == onDatabase || g.On == onSchema:
		return text + g.target()
	case len(differ) == 1:
		return fmt.Sprintf("%s%s in %s.%s", text, bounded(differ[0]), g.Database, g.Schema)
	}
	return fmt.Sprintf("%s%d %s in %s.%s", text, len(differ), g.On, g.Database, g.Schema)
}

// grantSQL grants to all objects of a schema, and revokes only on those named. Owners can lose privileges on their own objects, and then
// need them.
func grantSQL(privilege string, want bool, r role, g grant, identities []string) string {
	verb, preposition := "GRANT", "TO"
	if !want {
		verb, preposition = "REVOKE", "FROM"
	}
	object := ""
	switch {
	case g.On == onDatabase:
		object = "DATABASE " + quote(g.Database)
	case g.On == onSchema:
		object = "SCHEMA " + quote(g.Schema)
	case g.CreatedBy != "":
		return fmt.Sprintf("ALTER DEFAULT PRIVILEGES FOR ROLE %s IN SCHEMA %s %s %s ON %sS %s %s",
			quote(g.CreatedBy), quote(g.Schema), verb, privilege, nouns[g.On], preposition, quote(r.Name))
	case want:
		object = "ALL " + nouns[g.On] + "S IN SCHEMA " + quote(g.Schema)
	default:
		object = nouns[g.On] + " " + strings.Join(identities, ", ")
	}
	return fmt.Sprintf("%s %s ON %s %s %s", verb, privilege, object, preposition, quote(r.Name))
}

// maxText bounds what a server says, in an error or a report.
const maxText = 200

// bounded makes what a server says fit for a terminal: one line, not too long.
func bounded(text string) string {
	text = oneLine(text)
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	return text
}

// oneLine returns the text without what a terminal would act on.
func oneLine(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?")))
}
