package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// holdings is what hangs on a role that shall go.
type holdings struct {
	sessions  int
	members   []string // roles that are not declared, and use its privileges
	owned     []owned
	databases []string // where it owns something, or something is granted to it; empty: the login's own
}

// owned is what a role owns in one database.
type owned struct {
	database string
	count    int
	names    []string // of some of it
}

// maxNames is how many owned objects an error names.
const maxNames = 5

// drops is the plan of `down`: what to do in each database, and then the roles to drop.
type drops struct {
	databases []dropIn
	roles     []change
}

// dropIn is what is done in one database, in two transactions.
type dropIn struct {
	database string
	reassign []change // the first of them
	roles    []string // which own nothing there any more, before the rest of theirs goes
	drop     []change
}

// planDrop returns what drops the declared roles. It refuses those that are in use, and those that own something which no role is to get.
func planDrop(d declaration, s server, held map[string]holdings) (plan drops, err error) {
	errs := []error{refuse(d, s)}
	for _, r := range slices.Backward(d.Roles) {
		if _, exists := s.roles[r.Name]; !exists {
			continue
		}
		h, to := held[r.Name], d.reassignTo(r)
		if err := droppable(r.Name, to, h, s); err != nil {
			errs = append(errs, err)
			continue
		}
		for _, name := range h.databases {
			plan.in(name).add(r.Name, to, h)
		}
		plan.roles = append(plan.roles, change{role: r.Name, what: describeDrop(to, h), sql: "DROP ROLE " + quote(r.Name)})
	}
	// What belongs to the whole server, such as a database, is given away in the login's database. Until then it is owned in each of them.
	if i := slices.IndexFunc(plan.databases, func(in dropIn) bool { return in.database == s.database }); i > 0 {
		own := plan.databases[i]
		plan.databases = slices.Insert(slices.Delete(plan.databases, i, i+1), 0, own)
	}
	return plan, errors.Join(errs...)
}

// checkReassign returns an error if a role that is dropped too would get something.
func (d declaration) checkReassign() error {
	for _, r := range d.Roles {
		if to := d.reassignTo(r); slices.ContainsFunc(d.Roles, func(r role) bool { return r.Name == to }) {
			return fmt.Errorf("what role %s owns would go to %s, which down drops too: name another role", r.Name, to)
		}
	}
	return nil
}

// droppable returns why a role is not dropped.
func droppable(name, to string, h holdings, s server) error {
	if h.sessions > 0 {
		return errInUse(name, h.sessions)
	}
	if len(h.members) > 0 {
		return fmt.Errorf("role %s has members that the file does not declare, and they would lose its privileges: %s. Revoke it from them, then run this again",
			name, bounded(strings.Join(h.members, ", ")))
	}
	if len(h.owned) == 0 {
		return nil
	}
	if to == "" {
		return fmt.Errorf("role %s owns %s: give it to another role with reassignTo, or drop it yourself, then run this again", name, property(h.owned))
	}
	if _, exists := s.roles[to]; !exists {
		return fmt.Errorf("role %s owns %s, and there is no role %s to give it to: correct reassignTo", name, property(h.owned), to)
	}
	return nil
}

func errInUse(name string, sessions int) error {
	return fmt.Errorf("role %s is in use by %d sessions: stop what logs in as it, then run this again", name, sessions)
}

// property names what is owned, bounded.
func property(all []owned) string {
	var parts []string
	for _, o := range all {
		text := bounded(strings.Join(o.names[:min(len(o.names), maxNames)], ", "))
		if more := o.count - min(len(o.names), maxNames); more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		parts = append(parts, text+" in database "+o.database)
	}
	return bounded(strings.Join(parts, "; "))
}

// dropped is how the words of a drop begin.
const dropped = "dropped"

func describeDrop(to string, h holdings) string {
	count := 0
	for _, o := range h.owned {
		count += o.count
	}
	if count == 0 {
		return dropped
	}
	return fmt.Sprintf(dropped+", %d objects reassigned to %s", count, to)
}

// in returns what is done in a database.
func (p *drops) in(database string) *dropIn {
	i := slices.IndexFunc(p.databases, func(in dropIn) bool { return in.database == database })
	if i < 0 {
		p.databases = append(p.databases, dropIn{database: database})
		i = len(p.databases) - 1
	}
	return &p.databases[i]
}

// add reassigns what a role owns, and then drops its privileges and defaults. DROP OWNED would also drop what is owned, so it comes when
// nothing is.
func (in *dropIn) add(name, to string, h holdings) {
	if slices.ContainsFunc(h.owned, func(o owned) bool { return o.database == in.database }) {
		in.reassign = append(in.reassign, change{role: name, database: in.database, sql: "REASSIGN OWNED BY " + quote(name) + " TO " + quote(to)})
	}
	in.roles = append(in.roles, name)
	in.drop = append(in.drop, change{role: name, database: in.database, sql: "DROP OWNED BY " + quote(name)})
}
