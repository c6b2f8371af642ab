package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"quiesce/internal/scram"
)

// observe reads what the declaration asks about.
func observe(ctx context.Context, s *session, d declaration) (server, error) {
	found := server{user: s.Config().User, database: s.target.database, roles: map[string]existing{}, granted: map[grantKey]granted{}}
	err := s.QueryRow(ctx, `SELECT current_setting('server_version_num')::int,
		coalesce(current_setting('scram_iterations', true), $1)::int`, fmt.Sprint(scram.Iterations)).Scan(&found.version, &found.iterations)
	if err != nil {
		return found, fmt.Errorf("read the server's version: %w", err)
	}
	if found.operator, err = observeOperator(ctx, s.Conn); err != nil {
		return found, fmt.Errorf("read whose server it is: %w", err)
	}
	if err := observeRoles(ctx, s.Conn, d.names(), found.roles); err != nil {
		return found, fmt.Errorf("read the roles: %w", err)
	}
	if found.groups, err = observeGroups(ctx, s.Conn); err != nil {
		return found, fmt.Errorf("read the memberships of all roles: %w", err)
	}
	for _, r := range d.Roles {
		for _, g := range r.Grants {
			if found.granted[keyOf(r, g)], err = observeGrant(ctx, s, r.Name, g); err != nil {
				return found, fmt.Errorf("read privileges of role %s on %s: %w", r.Name, g.target(), err)
			}
		}
	}
	return found, nil
}

// names returns all roles that a declaration names.
func (d declaration) names() (names []string) {
	names = append(names, d.ReassignTo)
	for _, r := range d.Roles {
		names = append(append(names, r.Name, r.ReassignTo), r.MemberOf...)
		for _, g := range r.Grants {
			names = append(names, g.CreatedBy)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func observeOperator(ctx context.Context, conn *pgx.Conn) (string, error) {
	var s signs
	err := conn.QueryRow(ctx, `SELECT current_setting('unix_socket_directories'), current_setting('shared_preload_libraries'),
		coalesce(array_agg(rolname::text), '{}'), coalesce(array_agg(rolname::text) FILTER (WHERE rolsuper), '{}')
		FROM pg_roles WHERE rolname = ANY ($1)`, signRoles).Scan(&s.sockets, &s.libraries, &s.roles, &s.superuser)
	return operatorOf(s), err
}

const rolesQuery = `SELECT rolname, rolsuper, rolcanlogin, rolreplication, rolinherit, rolconnlimit, coalesce(rolpassword, ''),
	coalesce(shobj_description(a.oid, 'pg_authid'), ''),
	coalesce((SELECT substr(entry, length('role=') + 1) FROM pg_db_role_setting s, unnest(setconfig) entry
		WHERE setrole = a.oid AND setdatabase = 0 AND entry LIKE 'role=%'), ''),
	ARRAY(SELECT datname::text FROM pg_database WHERE datdba = a.oid ORDER BY 1)
	FROM pg_authid a WHERE rolname = ANY ($1)`

// The options INHERIT and SET are new in PostgreSQL 16: JSON has null for a column that is not there.
const membersQuery = `SELECT m.rolname, g.rolname, coalesce(o.rolname, ''), x.admin_option,
	coalesce((to_jsonb(x) ->> 'inherit_option')::bool <> m.rolinherit OR NOT (to_jsonb(x) ->> 'set_option')::bool, false) FROM pg_auth_members x
	JOIN pg_roles m ON m.oid = x.member JOIN pg_roles g ON g.oid = x.roleid LEFT JOIN pg_roles o ON o.oid = x.grantor
	WHERE m.rolname = ANY ($1) ORDER BY 1, 2, 3`

func observeRoles(ctx context.Context, conn *pgx.Conn, names []string, into map[string]existing) error {
	rows, err := conn.Query(ctx, rolesQuery, names)
	if err != nil {
		return err
	}
	var name string
	var e existing
	columns := []any{&name, &e.superuser, &e.login, &e.replication, &e.inherits, &e.limit, &e.stored, &e.comment, &e.setRole, &e.owns}
	_, err = pgx.ForEachRow(rows, columns, func() error {
		into[name] = e
		return nil
	})
	if err != nil {
		return err
	}
	if rows, err = conn.Query(ctx, membersQuery, names); err != nil {
		return err
	}
	var m membership
	_, err = pgx.ForEachRow(rows, []any{&name, &m.group, &m.grantor, &m.admin, &m.other}, func() error {
		e := into[name]
		e.memberOf = append(e.memberOf, m)
		into[name] = e
		return nil
	})
	return err
}

// observeGroups returns the groups of every role: a loop may go through one that the declaration does not name.
func observeGroups(ctx context.Context, conn *pgx.Conn) (map[string][]string, error) {
	rows, err := conn.Query(ctx, `SELECT DISTINCT m.rolname, g.rolname FROM pg_auth_members x JOIN pg_roles m ON m.oid = x.member JOIN pg_roles g ON g.oid = x.roleid`)
	if err != nil {
		return nil, err
	}
	groups := map[string][]string{}
	var member, group string
	_, err = pgx.ForEachRow(rows, []any{&member, &group}, func() error {
		groups[member] = append(groups[member], group)
		return nil
	})
	return groups, err
}

// The privileges of one role from the owner, on objects that it does not own. $1 is the role, $2 the database or schema, $3 the creator.
const (
	privilegesOf = `SELECT a.privilege_type FROM aclexplode(%[1]s) a, pg_roles r WHERE a.grantee = r.oid AND r.rolname = $1 AND a.grantor = %[2]s`
	grantable    = ` AND a.is_grantable`
	notOwned     = `%s NOT IN (SELECT oid FROM pg_roles WHERE rolname = $1)`

	relationsOf = `FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = $2 AND relkind = ANY ('{%s}') AND `
	routinesOf  = `FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = $2 AND `
	futureOf    = `SELECT a.privilege_type FROM pg_default_acl d JOIN pg_namespace n ON n.oid = defaclnamespace
		JOIN pg_roles o ON o.oid = defaclrole, aclexplode(defaclacl) a JOIN pg_roles r ON r.oid = a.grantee
		WHERE nspname = $2 AND o.rolname = $3 AND defaclobjtype = '%s' AND r.rolname = $1`
)

// noIdentity is for a database or schema: its statement has the declared name.
const noIdentity = "''"

func identityOf(catalog, oid string) string {
	return fmt.Sprintf("(pg_identify_object('%s'::regclass, %s, 0)).identity", catalog, oid)
}

func objects(name, identity, acl, owner, from string) string {
	return "SELECT " + name + ", " + identity + ", " + twice(fmt.Sprintf(privilegesOf, acl, owner)) + " " + from + fmt.Sprintf(notOwned, owner)
}

// twice selects the privileges, and those among them that the role may grant to others.
func twice(privileges string) string {
	return "ARRAY(" + privileges + "), ARRAY(" + privileges + grantable + ")"
}

var objectsQuery = map[string]string{
	onDatabase:  objects("datname", noIdentity, "datacl", "datdba", "FROM pg_database WHERE datname = $2 AND "),
	onSchema:    objects("nspname", noIdentity, "nspacl", "nspowner", "FROM pg_namespace WHERE nspname = $2 AND "),
	onTables:    objects("relname", identityOf("pg_class", "c.oid"), "relacl", "relowner", fmt.Sprintf(relationsOf, "r,p,v,m,f")),
	onSequences: objects("relname", identityOf("pg_class", "c.oid"), "relacl", "relowner", fmt.Sprintf(relationsOf, "S")),
	onFunctions: objects("proname", identityOf("pg_proc", "p.oid"), "proacl", "proowner", routinesOf),
}

// defaultTypes are the kinds in pg_default_acl.
var defaultTypes = map[string]string{onTables: "r", onSequences: "S", onFunctions: "f"}

func observeGrant(ctx context.Context, s *session, name string, g grant) (found granted, err error) {
	exists := false
	err = s.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", g.Database).Scan(&exists)
	if err != nil || !exists {
		return granted{missing: "database " + g.Database}, err
	}
	conn, err := s.in(ctx, g.Database)
	if err != nil {
		return found, err
	}
	where := g.Database
	if g.On != onDatabase {
		where = g.Schema
		err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", g.Schema).Scan(&exists)
		if err != nil || !exists {
			return granted{missing: "schema " + g.Schema + " of database " + g.Database}, err
		}
	}
	query, args := objectsQuery[g.On], []any{name, where}
	if g.CreatedBy != "" {
		query, args = "SELECT '', '', "+twice(fmt.Sprintf(futureOf, defaultTypes[g.On])), append(args, g.CreatedBy)
	}
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return found, err
	}
	var o object
	_, err = pgx.ForEachRow(rows, []any{&o.name, &o.identity, &o.privileges, &o.grantable}, func() error {
		found.objects = append(found.objects, o)
		return nil
	})
	return found, err
}

// dataClasses leaves out what is settings of the role itself, and goes with it: default privileges and user mappings.
const dataClasses = `deptype = 'o' AND classid NOT IN ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass)`

const holdingsQuery = `SELECT r.rolname, coalesce(d.datname, ''), count(*) FILTER (WHERE ` + dataClasses + `)
	FROM pg_shdepend s JOIN pg_roles r ON s.refobjid = r.oid AND s.refclassid = 'pg_authid'::regclass LEFT JOIN pg_database d ON d.oid = s.dbid
	WHERE r.rolname = ANY ($1) GROUP BY 1, 2 ORDER BY 1, 2`

const ownedQuery = `SELECT pg_describe_object(classid, objid, objsubid) FROM pg_shdepend
	WHERE refclassid = 'pg_authid'::regclass AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1) AND ` + dataClasses + `
	AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) AND ($2 OR dbid <> 0) ORDER BY 1 LIMIT $3`

// observeHoldings reads what hangs on the declared roles.
func observeHoldings(ctx context.Context, s *session, d declaration) (map[string]holdings, error) {
	held := map[string]holdings{}
	names := []string{}
	for _, r := range d.Roles {
		names = append(names, r.Name)
	}
	if err := observeSessions(ctx, s.Conn, names, held); err != nil {
		return nil, fmt.Errorf("read the sessions: %w", err)
	}
	if err := observeMembers(ctx, s.Conn, names, held); err != nil {
		return nil, fmt.Errorf("read the members: %w", err)
	}
	rows, err := s.Query(ctx, holdingsQuery, names)
	if err != nil {
		return nil, fmt.Errorf("read what the roles own: %w", err)
	}
	parts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[part])
	if err != nil {
		return nil, fmt.Errorf("read what the roles own: %w", err)
	}
	for _, p := range merged(parts, s.target.database) {
		h := held[p.Name]
		h.databases = append(h.databases, p.Database)
		if p.Owned > 0 {
			o := owned{database: p.Database, count: p.Owned}
			if o.names, err = observeOwned(ctx, s, p.Name, p.Database); err != nil {
				return nil, fmt.Errorf("read what role %s owns: %w", p.Name, err)
			}
			h.owned = append(h.owned, o)
		}
		held[p.Name] = h
	}
	return held, nil
}

// part is how much a role owns in one database. No database: what all of them share.
type part struct {
	Name, Database string
	Owned          int
}

// merged adds what all databases share to one of them, from which it can be reached.
func merged(parts []part, database string) (all []part) {
	for _, p := range parts {
		p.Database = cmp.Or(p.Database, database)
		i := slices.IndexFunc(all, func(q part) bool { return q.Name == p.Name && q.Database == p.Database })
		if i < 0 {
			all = append(all, p)
			continue
		}
		all[i].Owned += p.Owned
	}
	return all
}

func observeSessions(ctx context.Context, conn *pgx.Conn, names []string, held map[string]holdings) error {
	rows, err := conn.Query(ctx, "SELECT usename, count(*) FROM pg_stat_activity WHERE usename = ANY ($1) GROUP BY 1", names)
	if err != nil {
		return err
	}
	var name string
	var count int
	_, err = pgx.ForEachRow(rows, []any{&name, &count}, func() error {
		held[name] = holdings{sessions: count}
		return nil
	})
	return err
}

// undeclaredMembers has who uses the privileges of a role without being declared. From PostgreSQL 16 on, who makes a role is a member without
// its privileges (https://www.postgresql.org/docs/16/runtime-config-client.html#GUC-CREATEROLE-SELF-GRANT).
const undeclaredMembers = `SELECT g.rolname, m.rolname FROM pg_auth_members x JOIN pg_roles g ON g.oid = x.roleid JOIN pg_roles m ON m.oid = x.member
	WHERE g.rolname = ANY ($1) AND m.rolname <> ALL ($1) AND m.rolname <> current_user AND NOT m.rolsuper
	AND (coalesce((to_jsonb(x) ->> 'inherit_option')::bool, true) OR coalesce((to_jsonb(x) ->> 'set_option')::bool, true))
	GROUP BY 1, 2 ORDER BY 1, 2`

func observeMembers(ctx context.Context, conn *pgx.Conn, names []string, held map[string]holdings) error {
	rows, err := conn.Query(ctx, undeclaredMembers, names)
	if err != nil {
		return err
	}
	var group, member string
	_, err = pgx.ForEachRow(rows, []any{&group, &member}, func() error {
		h := held[group]
		h.members = append(h.members, member)
		held[group] = h
		return nil
	})
	return err
}

func observeOwned(ctx context.Context, s *session, name, database string) ([]string, error) {
	conn, err := s.in(ctx, database)
	if err != nil {
		return nil, err
	}
	rows, err := conn.Query(ctx, ownedQuery, name, database == s.target.database, maxNames)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
