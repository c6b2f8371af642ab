package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// mark is the comment of a role that this program made. On the server of an operator, only such roles are changed.
const mark = "quiesce roles"

// server is what a server has, as far as a declaration asks.
type server struct {
	version    int    // such as 150018
	user       string // who this program is logged in as
	database   string // and where
	iterations int    // of new verifiers
	operator   string // whose server it is; empty: nobody's that is known
	roles      map[string]existing
	groups     map[string][]string // of each role, of those too that the declaration does not name
	granted    map[grantKey]granted
}

// existing is a role that the server has.
type existing struct {
	superuser   bool
	login       bool
	replication bool
	inherits    bool // without being asked: what a new membership does, and before PostgreSQL 16 each
	limit       int
	stored      string // the verifier, if it has a password
	setRole     string
	memberOf    []membership
	comment     string
	owns        []string // databases
}

// membership is one grant of a role. Since PostgreSQL 16 several may grant the same, and each has its own options.
type membership struct {
	group, grantor string
	admin          bool // the member may grant the role to others
	other          bool // its options INHERIT and SET are not those of a GRANT without options
}

// change is one statement, and what it does in words. The statement may have a verifier: only the words are printed.
type change struct {
	role     string
	what     string
	database string // empty: any
	sql      string
	quiet    bool   // it has a verifier: it must not get into the server's log
	ends     string // the role is no member of this one any more
	begins   string // the role becomes a member of this one
	first    bool   // it ends a membership that, with one that begins, would make a loop
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// literal quotes a text that has neither quotes nor backslashes, such as a verifier.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// plan returns the statements that make the server what is declared, in an order in which they work. It is empty if there is no
// difference.
func plan(d declaration, s server) ([]change, error) {
	if err := errors.Join(refuse(d, s), references(d, s)); err != nil {
		return nil, err
	}
	var changes []change
	for _, r := range d.Roles {
		found, err := planRole(r, s)
		if err != nil {
			return nil, fmt.Errorf("role %s: %w", r.Name, err)
		}
		changes = append(changes, found...)
	}
	changes = append(changes, planMemberships(d, s)...)
	for _, r := range d.Roles {
		changes = append(changes, planSetRole(r, s)...)
	}
	for _, r := range d.Roles {
		for _, g := range r.Grants {
			changes = append(changes, planGrant(r, g, s)...)
		}
	}
	return changes, nil
}

// planRole makes the role, or changes its attributes and its password.
func planRole(r role, s server) (changes []change, err error) {
	have, exists := s.roles[r.Name]
	if !exists {
		changes = append(changes,
			change{role: r.Name, what: created, sql: "CREATE ROLE " + quote(r.Name)},
			change{role: r.Name, sql: "COMMENT ON ROLE " + quote(r.Name) + " IS " + literal(mark)})
		have.limit = -1
	}
	alter := func(what, clause string) {
		changes = append(changes, change{role: r.Name, what: what, sql: "ALTER ROLE " + quote(r.Name) + " " + clause})
	}
	if want := r.Login == login; r.Login != rotated && have.login != want {
		alter(switched("login", want), switched("LOGIN", want))
	}
	if have.replication != r.Replication {
		alter(switched("replication", r.Replication), switched("REPLICATION", r.Replication))
	}
	if have.limit != r.limit() {
		alter(fmt.Sprintf("connection limit %d", r.limit()), fmt.Sprintf("CONNECTION LIMIT %d", r.limit()))
	}
	if r.Password != nil && !r.Password.isSet(have.stored) {
		stored, err := r.Password.toStore(s.iterations)
		if err != nil {
			return nil, err
		}
		alter("password", "PASSWORD "+literal(stored))
		changes[len(changes)-1].quiet = true
	}
	return changes, nil
}

// created is the words of the statement that makes a role.
const created = "created"

func switched(name string, is bool) string {
	switch {
	case is:
		return name
	case name == strings.ToUpper(name):
		return "NO" + name
	}
	return "no " + name
}

// planMemberships puts the ends first without which a membership that begins would make a loop: PostgreSQL refuses it.
func planMemberships(d declaration, s server) (changes []change) {
	for _, r := range d.Roles {
		changes = append(changes, planMembership(r, s)...)
	}
	groups := map[string][]string{} // of each role, before any ends
	for name, of := range s.groups {
		groups[name] = slices.Clone(of)
	}
	for _, c := range changes {
		if c.begins != "" {
			groups[c.role] = append(groups[c.role], c.begins)
		}
	}
	for i, c := range changes {
		changes[i].first = c.ends != "" && isMember(groups, c.ends, c.role, map[string]bool{})
	}
	slices.SortStableFunc(changes, func(a, b change) int { return cmp.Compare(rank(a), rank(b)) })
	return changes
}

func rank(c change) int {
	if c.first {
		return 0
	}
	return 1
}

// isMember reports whether a role is a member of the group, directly or through others.
func isMember(groups map[string][]string, role, group string, seen map[string]bool) bool {
	seen[role] = true
	return slices.ContainsFunc(groups[role], func(next string) bool {
		return next == group || !seen[next] && isMember(groups, next, group, seen)
	})
}

func planMembership(r role, s server) (changes []change) {
	have := s.roles[r.Name]
	add := func(what, sql string) { changes = append(changes, change{role: r.Name, what: what, sql: sql}) }
	for _, m := range have.memberOf {
		from, by := quote(m.group)+" FROM "+quote(r.Name), ""
		if s.version >= 160000 {
			by = " GRANTED BY " + quote(m.grantor)
		}
		if !slices.Contains(r.MemberOf, m.group) {
			changes = append(changes, change{role: r.Name, what: "no member of " + m.group, sql: "REVOKE " + from + by, ends: m.group})
			continue
		}
		if m.admin {
			add("no admin option on "+m.group, "REVOKE ADMIN OPTION FOR "+from+by)
		}
		if m.other {
			add(fmt.Sprintf("member of %s with INHERIT %t and SET true", m.group, have.inherits),
				fmt.Sprintf("GRANT %s TO %s WITH INHERIT %t, SET TRUE", quote(m.group), quote(r.Name), have.inherits)+by)
		}
	}
	for _, name := range r.MemberOf {
		if !slices.ContainsFunc(have.memberOf, func(m membership) bool { return m.group == name }) {
			changes = append(changes, change{role: r.Name, what: "member of " + name, sql: "GRANT " + quote(name) + " TO " + quote(r.Name), begins: name})
		}
	}
	return changes
}

func planSetRole(r role, s server) []change {
	switch have := s.roles[r.Name].setRole; {
	case have == r.SetRole:
		return nil
	case r.SetRole == "":
		return []change{{role: r.Name, what: "no SET role", sql: "ALTER ROLE " + quote(r.Name) + " RESET role"}}
	}
	return []change{{role: r.Name, what: "SET role " + r.SetRole, sql: "ALTER ROLE " + quote(r.Name) + " SET role TO " + quote(r.SetRole)}}
}

// references returns what a declaration names and the server lacks.
func references(d declaration, s server) error {
	var errs []error
	need := func(r role, name string) {
		_, exists := s.roles[name]
		if !exists && !slices.ContainsFunc(d.Roles, func(r role) bool { return r.Name == name }) {
			errs = append(errs, fmt.Errorf("role %s: there is no role %s: declare it, or correct the name", r.Name, name))
		}
	}
	for _, r := range d.Roles {
		for _, name := range r.MemberOf {
			need(r, name)
		}
		for _, g := range r.Grants {
			if missing := s.granted[keyOf(r, g)].missing; missing != "" {
				errs = append(errs, fmt.Errorf("role %s: %s does not exist: create it first, or correct the name", r.Name, missing))
			}
			if g.CreatedBy != "" {
				need(r, g.CreatedBy)
			}
		}
	}
	return errors.Join(errs...)
}
