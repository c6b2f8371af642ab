package main

import (
	"fmt"
	"slices"
	"strings"
)

// maxName is the length of a name in bytes. PostgreSQL would silently cut a longer one.
const maxName = 63

// checker collects what is wrong with a declaration.
type checker struct {
	lines
	errs []error
}

func (c *checker) fail(path []any, format string, args ...any) {
	var key strings.Builder
	for _, step := range path {
		switch step := step.(type) {
		case int:
			fmt.Fprintf(&key, "[%d]", step)
		case string:
			key.WriteString("." + step)
		}
	}
	c.errs = append(c.errs, fmt.Errorf("line %d: %s: %s", c.at(path...), strings.TrimPrefix(key.String(), "."), fmt.Sprintf(format, args...)))
}

func (c *checker) check(d declaration) {
	if len(d.Roles) == 0 {
		c.fail([]any{"roles"}, "there are none")
	}
	seen := map[string]bool{}
	for i, r := range d.Roles {
		path := []any{"roles", i}
		c.name(append(path, "name"), r.Name)
		if seen[r.Name] {
			c.fail(append(path, "name"), "%s is declared twice", r.Name)
		}
		seen[r.Name] = true
		c.role(path, r)
		c.grants(path, r.Grants)
		c.optionalName(append(path, "reassignTo"), r.ReassignTo)
	}
	c.optionalName([]any{"reassignTo"}, d.ReassignTo)
	if err := d.checkReassign(); err != nil {
		c.fail([]any{"roles"}, "%v", err)
	}
}

func (d declaration) reassignTo(r role) string {
	if r.ReassignTo != "" {
		return r.ReassignTo
	}
	return d.ReassignTo
}

func (c *checker) name(path []any, name string) {
	switch {
	case name == "":
		c.fail(path, "a name is missing")
	case len(name) > maxName:
		c.fail(path, "longer than the %d bytes of a name", maxName)
	case name == "public" || name == "none" || strings.ContainsRune(name, 0):
		c.fail(path, "not a name that PostgreSQL allows")
	}
}

func (c *checker) optionalName(path []any, name string) {
	if name != "" {
		c.name(path, name)
	}
}

func (c *checker) role(path []any, r role) {
	from := append(path, "passwordFrom")
	switch {
	case r.PasswordFrom.Env != "" && r.PasswordFrom.File != "":
		c.fail(from, "env or file, not both")
	case r.PasswordFrom != (source{}) && r.Login == rotated:
		c.fail(from, "a rotation sets the password of a login that is rotated")
	case r.PasswordFrom != (source{}) && r.Login == group:
		c.fail(from, "a role without login needs no password: add login: true")
	case r.Replication && r.Login == group:
		c.fail(append(path, "replication"), "needs login: true")
	}
	if r.ConnectionLimit != nil && *r.ConnectionLimit < -1 {
		c.fail(append(path, "connectionLimit"), "-1 is no limit, and less has no meaning")
	}
	for i, name := range r.MemberOf {
		at := append(path, "memberOf", i)
		c.name(at, name)
		if name == r.Name || slices.Contains(r.MemberOf[:i], name) {
			c.fail(at, "%s is itself, or written twice", name)
		}
	}
	if r.SetRole != "" && (r.Login == group || !slices.Contains(r.MemberOf, r.SetRole)) {
		c.fail(append(path, "setRole"), "only a login that is a member of %s can be it: add login and memberOf", r.SetRole)
	}
}

func (c *checker) grants(path []any, grants []grant) {
	seen := map[string]bool{}
	for i, g := range grants {
		at := append(slices.Clone(path), "grants", i)
		allowed, known := privilegesOn[g.On]
		switch {
		case !known:
			c.fail(append(at, "on"), "must be database, schema, tables, sequences or functions")
			continue
		case g.Database == "":
			c.fail(append(at, "database"), "is missing")
		case (g.Schema == "") != (g.On == onDatabase):
			c.fail(append(at, "schema"), "belongs to every grant except one on a database")
		case g.CreatedBy != "" && (g.On == onDatabase || g.On == onSchema):
			c.fail(append(at, "createdBy"), "belongs to tables, sequences and functions only")
		case seen[g.target()]:
			c.fail(at, "a second grant on %s: join their privileges", g.target())
		}
		seen[g.target()] = true
		for j, p := range g.Privileges {
			if !slices.Contains(allowed, p) || slices.Contains(g.Privileges[:j], p) {
				c.fail(append(at, "privileges", j), "must be one of %s, once", strings.Join(allowed, ", "))
			}
		}
		if g.Privileges == nil {
			c.fail(at, "privileges is missing; [] takes all of them away")
		}
	}
}

// target returns what a grant is about, in words.
func (g grant) target() string {
	where := g.Database
	if g.Schema != "" {
		where += "." + g.Schema
	}
	switch {
	case g.CreatedBy != "":
		return fmt.Sprintf("future %s of %s in %s", g.On, g.CreatedBy, where)
	case g.On == onDatabase || g.On == onSchema:
		return g.On + " " + where
	}
	return fmt.Sprintf("all %s in %s", g.On, where)
}
