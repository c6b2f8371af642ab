package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// quietly keeps a statement out of the server's log and out of pg_stat_statements: it has a verifier, which no reader of a log needs.
// Audit extensions are left alone.
var quietly = []string{
	"SET LOCAL log_statement = 'none'", "SET LOCAL log_min_duration_statement = -1", "SET LOCAL log_min_duration_sample = -1",
	"SET LOCAL log_transaction_sample_rate = 0", "SET LOCAL log_min_error_statement = 'panic'", "SET LOCAL pg_stat_statements.track_utility = off",
}

var loudly = []string{
	"RESET log_statement", "RESET log_min_duration_statement", "RESET log_min_duration_sample", "RESET log_transaction_sample_rate",
	"RESET log_min_error_statement", "RESET pg_stat_statements.track_utility",
}

// apply sends the changes: those of all roles in one transaction together with the privileges in its database, then those of each other
// database in one. Stopped between them, another run does the rest. With several databases, memberships end in a last transaction: what replaces
// them may be in any other. One that would make a loop with a membership that begins ends first.
func apply(ctx context.Context, s *session, changes []change) error {
	isOther := func(c change) bool { return c.database != "" && c.database != s.target.database }
	several := slices.ContainsFunc(changes, isOther)
	var databases []string
	by, last := map[string][]change{}, []change{}
	for _, c := range changes {
		switch {
		case c.ends != "" && several && !c.first:
			last = append(last, c)
			continue
		case !isOther(c):
			c.database = ""
		case by[c.database] == nil:
			databases = append(databases, c.database)
		}
		by[c.database] = append(by[c.database], c)
	}
	for _, database := range append([]string{""}, databases...) {
		conn, err := s.in(ctx, database)
		if err != nil {
			return err
		}
		if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return send(ctx, tx, by[database]) }); err != nil {
			return err
		}
	}
	if len(last) == 0 {
		return nil
	}
	return pgx.BeginFunc(ctx, s.Conn, func(tx pgx.Tx) error { return send(ctx, tx, last) })
}

func send(ctx context.Context, tx pgx.Tx, changes []change) error {
	for _, c := range changes {
		statements := []string{c.sql}
		if c.quiet {
			statements = slices.Concat(quietly, statements, loudly)
		}
		for _, sql := range statements {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("change role %s (%s): %w", c.role, c.what, err)
			}
		}
	}
	return nil
}

// The locks of a drop. Whoever makes something that has an owner, first locks pg_shdepend and then, until its transaction ends, the owner.
const (
	noNewOwners = "LOCK TABLE pg_shdepend IN SHARE ROW EXCLUSIVE MODE"
	openOwners  = `SELECT r.rolname FROM pg_locks l JOIN pg_roles r ON l.objid = r.oid
		WHERE l.locktype = 'object' AND l.classid = 'pg_authid'::regclass AND l.pid <> pg_backend_pid() AND r.rolname = ANY ($1) LIMIT 1`
	stillOwned = `SELECT r.rolname, pg_describe_object(classid, objid, objsubid)
		FROM pg_shdepend s JOIN pg_roles r ON s.refobjid = r.oid AND s.refclassid = 'pg_authid'::regclass
		WHERE r.rolname = ANY ($1) AND ` + dataClasses + ` AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) LIMIT 1`
)

// drop removes the roles: first what hangs on them in each database, then all of them at once.
func (s *session) drop(ctx context.Context, plan drops) error {
	for _, in := range plan.databases {
		conn, err := s.in(ctx, in.database)
		if err != nil {
			return err
		}
		// This waits for sessions that use the objects. Under the lock of clearOut, nothing could be made on the whole server meanwhile.
		err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return send(ctx, tx, in.reassign) })
		if err == nil {
			err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return clearOut(ctx, tx, in) })
		}
		if err != nil {
			return fmt.Errorf("in database %s: %w", in.database, err)
		}
	}
	return pgx.BeginFunc(ctx, s.Conn, func(tx pgx.Tx) error { return dropRoles(ctx, tx, plan.roles) })
}

// dropRoles drops the roles, unless one is in use: it may have logged in since the look. PostgreSQL drops a role all the same.
func dropRoles(ctx context.Context, tx pgx.Tx, roles []change) error {
	var names []string
	for _, c := range roles {
		names = append(names, c.role)
	}
	held := map[string]holdings{}
	if err := observeSessions(ctx, tx.Conn(), names, held); err != nil {
		return fmt.Errorf("read the sessions: %w", err)
	}
	for _, name := range names {
		if n := held[name].sessions; n > 0 {
			return errInUse(name, n)
		}
	}
	return send(ctx, tx, roles)
}

// clearOut drops the privileges of the roles in one database, where they own nothing any more. DROP OWNED would drop what is owned: so
// nothing may be made between the look and the end of the transaction.
func clearOut(ctx context.Context, tx pgx.Tx, in dropIn) error {
	if _, err := tx.Exec(ctx, noNewOwners); err != nil {
		return fmt.Errorf("lock out new objects: %w", err)
	}
	var name, what string
	switch err := tx.QueryRow(ctx, openOwners, in.roles).Scan(&name); {
	case err == nil:
		return fmt.Errorf("an open transaction makes something that role %s will own: run this again when it has ended", name)
	case !errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("look for open transactions: %w", err)
	}
	switch err := tx.QueryRow(ctx, stillOwned, in.roles).Scan(&name, &what); {
	case err == nil:
		return fmt.Errorf("role %s still owns %s: nothing was dropped. Run this again", name, bounded(what))
	case !errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("look for owned objects: %w", err)
	}
	return send(ctx, tx, in.drop)
}
