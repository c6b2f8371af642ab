package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/scram"
)

func statements(changes []change) (sql []string) {
	for _, c := range changes {
		sql = append(sql, c.sql)
	}
	return sql
}

func at(operator string, roles map[string]existing) server {
	return server{version: 150000, user: "postgres", database: "postgres", iterations: scram.Iterations, operator: operator, roles: roles}
}

func TestPlan_Differences_OneStatementEach(t *testing.T) {
	five := 5
	blue := role{Name: "blue", Login: login, ConnectionLimit: &five, MemberOf: []string{"team"}, SetRole: "team"}
	team := role{Name: "team"}
	has := existing{login: true, limit: 5, setRole: "team", memberOf: []membership{{group: "team", grantor: "postgres"}}}
	for name, c := range map[string]struct {
		change func(*existing)
		want   []string
	}{
		"none":         {func(*existing) {}, nil},
		"no login":     {func(e *existing) { e.login = false }, []string{`ALTER ROLE "blue" LOGIN`}},
		"replication":  {func(e *existing) { e.replication = true }, []string{`ALTER ROLE "blue" NOREPLICATION`}},
		"limit":        {func(e *existing) { e.limit = -1 }, []string{`ALTER ROLE "blue" CONNECTION LIMIT 5`}},
		"set role":     {func(e *existing) { e.setRole = "" }, []string{`ALTER ROLE "blue" SET role TO "team"`}},
		"no member":    {func(e *existing) { e.memberOf = nil }, []string{`GRANT "team" TO "blue"`}},
		"admin option": {func(e *existing) { e.memberOf[0].admin = true }, []string{`REVOKE ADMIN OPTION FOR "team" FROM "blue"`}},
		"member of another": {
			func(e *existing) { e.memberOf = append(e.memberOf, membership{group: "other", grantor: "admin"}) }, []string{`REVOKE "other" FROM "blue"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := has
			e.memberOf = slices.Clone(has.memberOf)
			c.change(&e)
			changes, err := plan(declaration{Roles: []role{blue, team}}, at("", map[string]existing{"blue": e, "team": {limit: -1}}))
			require.NoError(t, err)
			require.Equal(t, c.want, statements(changes))
		})
	}
}

// Since PostgreSQL 16 a membership is revoked from each who granted it, and changed for each.
func TestPlan_PostgreSQL16_RevokedFromEachGrantor(t *testing.T) {
	s := at("", map[string]existing{"team": {limit: -1}, "blue": {limit: -1, inherits: true, memberOf: []membership{
		{group: "team", grantor: "a", admin: true}, {group: "team", grantor: "b", other: true},
	}}})
	s.version = 160000
	blue := role{Name: "blue"}
	changes, err := plan(declaration{Roles: []role{blue}}, s)
	require.NoError(t, err)
	require.Equal(t, []string{`REVOKE "team" FROM "blue" GRANTED BY "a"`, `REVOKE "team" FROM "blue" GRANTED BY "b"`}, statements(changes))

	blue.MemberOf = []string{"team"}
	changes, err = plan(declaration{Roles: []role{blue}}, s)
	require.NoError(t, err)
	require.Equal(t, []string{
		`REVOKE ADMIN OPTION FOR "team" FROM "blue" GRANTED BY "a"`, `GRANT "team" TO "blue" WITH INHERIT true, SET TRUE GRANTED BY "b"`,
	}, statements(changes))
}

func TestPlan_NewRoles_AllMadeBeforeTheyAreUsed(t *testing.T) {
	d := declaration{Roles: []role{{Name: "blue", Login: login, MemberOf: []string{"team"}, Password: &secret{"pencil"}}, {Name: "team"}}}
	changes, err := plan(d, at("", nil))
	require.NoError(t, err)
	sql := statements(changes)
	require.Equal(t, []string{
		`CREATE ROLE "blue"`, `COMMENT ON ROLE "blue" IS 'quiesce roles'`, `ALTER ROLE "blue" LOGIN`, sql[3], `CREATE ROLE "team"`,
		`COMMENT ON ROLE "team" IS 'quiesce roles'`, `GRANT "team" TO "blue"`,
	}, sql)
	stored, is := strings.CutPrefix(sql[3], `ALTER ROLE "blue" PASSWORD '`)
	require.True(t, is, sql[3])
	require.True(t, secret{"pencil"}.isSet(strings.TrimSuffix(stored, "'")))
	require.True(t, changes[3].quiet)

	var out bytes.Buffer
	report(&out, d, changes, "", "unchanged")
	require.Equal(t, "role blue: created (login, password, member of team)\nrole team: created\n", out.String())
}

func TestPlan_Grants_OnlyWhatDiffers(t *testing.T) {
	tables := grant{On: onTables, Database: "app", Schema: "public", Privileges: []string{"SELECT", "INSERT"}}
	future := tables
	future.CreatedBy = "owner"
	database := grant{On: onDatabase, Database: "app", Privileges: []string{"CONNECT"}}
	team := role{Name: "team", Grants: []grant{tables, future, database}}
	s := at("", map[string]existing{"team": {limit: -1}, "owner": {}})
	s.granted = map[grantKey]granted{
		keyOf(team, tables): {objects: []object{
			{name: "a", identity: "public.a", privileges: []string{"SELECT", "INSERT"}, grantable: []string{"SELECT"}},
			{name: "b", identity: "public.b", privileges: []string{"SELECT", "DELETE"}, grantable: []string{"DELETE"}},
		}},
		keyOf(team, future):   {objects: []object{{privileges: []string{"SELECT"}}}},
		keyOf(team, database): {objects: []object{{name: "app", privileges: []string{"CONNECT", "CREATE"}}}},
	}
	changes, err := plan(declaration{Roles: []role{team}}, s)
	require.NoError(t, err)
	require.Equal(t, []string{
		`REVOKE DELETE ON TABLE public.b FROM "team"`,
		`GRANT INSERT ON ALL TABLES IN SCHEMA "public" TO "team"`,
		`REVOKE GRANT OPTION FOR SELECT ON TABLE public.a FROM "team"`,
		`ALTER DEFAULT PRIVILEGES FOR ROLE "owner" IN SCHEMA "public" GRANT INSERT ON TABLES TO "team"`,
		`REVOKE CREATE ON DATABASE "app" FROM "team"`,
	}, statements(changes))
	require.Equal(t, "no DELETE on b in app.public", changes[0].what)
}

func TestPlan_RolesOfOthers_Refused(t *testing.T) {
	for name, c := range map[string]struct {
		operator, role string
		has            *existing
		want           string
	}{
		"administrator":             {"", "postgres", nil, "administrator"},
		"reserved":                  {"", "pg_monitor", nil, "PostgreSQL's own"},
		"own login":                 {"", "me", nil, "logged in as it"},
		"superuser":                 {"", "boss", &existing{superuser: true}, "it is a superuser"},
		"CloudNativePG by name":     {"", "streaming_replica", nil, "CloudNativePG uses for its own"},
		"Crunchy by name":           {"", "_crunchyrepl", nil, "Crunchy's operator uses for its own"},
		"Zalando, a common name":    {zalando, "standby", nil, "Zalando's operator uses for its own"},
		"nobody's, a common name":   {"", "standby", nil, ""},
		"StackGres, common name":    {stackGres, "replicator", nil, "StackGres uses for its own"},
		"the documents' name":       {"", "replicator", &existing{limit: -1}, ""},
		"an app owner":              {cloudNativePG, "app", &existing{owns: []string{"app"}}, "may own it as the owner of database app"},
		"a role of the operator":    {zalando, "team", &existing{}, `If it is yours: COMMENT ON ROLE "team" IS 'quiesce roles'`},
		"ours, operator's server":   {cloudNativePG, "team", &existing{limit: -1, comment: mark}, ""},
		"new, operator's server":    {cloudNativePG, "team", nil, ""},
		"existing, nobody's server": {"", "team", &existing{limit: -1}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := at(c.operator, map[string]existing{})
			s.user = "me"
			if c.has != nil {
				s.roles[c.role] = *c.has
			}
			d := declaration{Roles: []role{{Name: c.role}}}
			_, err := plan(d, s)
			_, downErr := planDrop(d, s, nil)
			if c.want == "" {
				require.NoError(t, err)
				require.NoError(t, downErr)
				return
			}
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, downErr, c.want)
		})
	}
}

func TestOperatorOf_Signs_Recognized(t *testing.T) {
	for want, s := range map[string]signs{
		cloudNativePG: {sockets: "/controller/run"}, zalando: {libraries: "bg_mon,pg_stat_statements"}, crunchy: {roles: []string{"_crunchyrepl"}},
		stackGres: {roles: []string{"authenticator"}, superuser: []string{"authenticator"}},
		"":        {sockets: "/var/run/postgresql", libraries: "pg_stat_statements", roles: []string{"authenticator"}},
	} {
		require.Equal(t, want, operatorOf(s))
	}
	require.Equal(t, cloudNativePG, operatorOf(signs{roles: []string{"streaming_replica"}}))
}

func TestPlanDrop_SeveralDatabases_ReassignedThenDropped(t *testing.T) {
	d := declaration{ReassignTo: "heir", Roles: []role{{Name: "team"}, {Name: "blue"}, {Name: "gone"}}}
	s := at("", map[string]existing{"team": {}, "blue": {}, "heir": {}})
	got, err := planDrop(d, s, map[string]holdings{
		"team": {databases: []string{"app", "other"}, owned: []owned{{"app", 2, []string{"table a", "table b"}}}}, "blue": {databases: []string{"app"}},
	})
	require.NoError(t, err)
	require.Len(t, got.databases, 2)
	app, other := got.databases[0], got.databases[1]
	require.Equal(t, []string{`REASSIGN OWNED BY "team" TO "heir"`}, statements(app.reassign))
	require.Equal(t, []string{`DROP OWNED BY "blue"`, `DROP OWNED BY "team"`}, statements(app.drop))
	require.Equal(t, []string{"blue", "team"}, app.roles)
	require.Empty(t, other.reassign)
	require.Equal(t, []string{`DROP OWNED BY "team"`}, statements(other.drop))
	require.Equal(t, []string{`DROP ROLE "blue"`, `DROP ROLE "team"`}, statements(got.roles))
}

// A role that owns a database still owns it in each database until it is given away in the login's. So that one comes first.
func TestPlanDrop_LoginsDatabaseIsNamedLast_ComesFirst(t *testing.T) {
	d := declaration{ReassignTo: "heir", Roles: []role{{Name: "owner"}, {Name: "reader"}}}
	s := at("", map[string]existing{"owner": {}, "reader": {}, "heir": {}})
	s.database = "postgres"
	got, err := planDrop(d, s, map[string]holdings{
		"owner":  {databases: []string{"postgres", "app"}, owned: []owned{{"postgres", 1, []string{"database app"}}}},
		"reader": {databases: []string{"app", "other"}},
	})
	require.NoError(t, err)
	var order []string
	for _, in := range got.databases {
		order = append(order, in.database)
	}
	require.Equal(t, []string{"postgres", "app", "other"}, order)
	require.Equal(t, []string{"reader", "owner"}, got.databases[1].roles)
}

func TestBounded_WhatServersSay_OneShortLine(t *testing.T) {
	require.Equal(t, "a b  c", bounded("a\nb\x1b\x7fc"))
	require.LessOrEqual(t, len(bounded(strings.Repeat("ä", 1000))), maxText+3)
}
