package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/debian"
	parts "quiesce/test/parts/postgres"
)

// logged is a server that writes every statement to its log, as some are configured.
var logged = parts.Options{
	Settings: []string{"log_statement=all", "shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track=all"},
}

// fixture is one server and the roles of one file.
type fixture struct {
	*testing.T
	db   *parts.Database
	file string
	env  map[string]string
}

func newFixture(t *testing.T, file string) *fixture {
	t.Helper()
	return newFixtureWith(t, file, logged)
}

func newFixtureWith(t *testing.T, file string, o parts.Options) *fixture {
	t.Helper()
	t.Parallel()
	db := parts.StartWith(t, o)
	f := &fixture{T: t, db: db, file: filepath.Join(t.TempDir(), "roles.yaml"), env: map[string]string{
		"POSTGRES_HOSTNAME": "127.0.0.1", "POSTGRES_PORT": fmt.Sprint(db.Port), "PGSSLMODE": "disable",
	}}
	f.write(file)
	return f
}

func (f *fixture) write(file string) {
	f.Helper()
	require.NoError(f, os.WriteFile(f.file, []byte(file), 0o600))
}

func (f *fixture) getenv(name string) string { return f.env[name] }

// run runs the program with the file, and returns its exit status, output and errors. No output may have a password.
func (f *fixture) run(args ...string) (status int, stdout, stderr string) {
	f.Helper()
	return f.runRaw(append(args, "-f", f.file)...)
}

func (f *fixture) runRaw(args ...string) (status int, stdout, stderr string) {
	f.Helper()
	var out, errs bytes.Buffer
	status = run(f.Context(), args, f.getenv, &out, &errs)
	f.requireNoSecret(out.String() + errs.String())
	return status, out.String(), errs.String()
}

// secretOf is a password that a test can find again.
func secretOf(name string) string { return "hunter-" + name }

func (f *fixture) requireNoSecret(text string) {
	f.Helper()
	for _, sign := range []string{"hunter", "SCRAM-SHA-256$"} {
		require.NotContains(f, text, sign)
	}
}

// ok runs the program, requires success, and returns its output.
func (f *fixture) ok(args ...string) string {
	f.Helper()
	status, stdout, stderr := f.run(args...)
	require.Equal(f, same, status, "%s%s", stdout, stderr)
	return stdout
}

// fails runs the program, requires trouble, and returns its errors.
func (f *fixture) fails(args ...string) string {
	f.Helper()
	status, stdout, stderr := f.run(args...)
	require.Equal(f, trouble, status, "%s%s", stdout, stderr)
	return stderr
}

// login logs in as a role.
func (f *fixture) login(name, password, database string) (*pgx.Conn, error) {
	f.Helper()
	config, err := pgx.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=disable", f.db.Port, name, database))
	require.NoError(f, err)
	config.Password = password
	conn, err := pgx.ConnectConfig(f.Context(), config)
	if err == nil {
		f.Cleanup(func() { _ = conn.Close(context.Background()) })
	}
	return conn, err
}

func (f *fixture) admin(database string) *pgx.Conn {
	f.Helper()
	conn, err := f.login("postgres", "", database)
	require.NoError(f, err)
	return conn
}

func (f *fixture) exec(conn *pgx.Conn, statements ...string) {
	f.Helper()
	for _, sql := range statements {
		_, err := conn.Exec(f.Context(), sql)
		require.NoError(f, err, sql)
	}
}

func (f *fixture) scalar(conn *pgx.Conn, sql string, args ...any) (text string) {
	f.Helper()
	require.NoError(f, conn.QueryRow(f.Context(), sql, args...).Scan(&text), sql)
	return text
}

func refusedWith(t *testing.T, err error, code string) {
	t.Helper()
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, code, refused.Code)
}

const (
	invalidPassword = "28P01"
	denied          = "42501"
)

const everything = `
reassignTo: postgres
roles:
  - name: team
    grants:
      - {on: database, database: app, privileges: [CONNECT, TEMPORARY]}
      - {on: schema, database: app, schema: public, privileges: [USAGE, CREATE]}
      - {on: tables, database: app, schema: public, privileges: [SELECT, INSERT]}
      - {on: sequences, database: app, schema: public, privileges: [USAGE]}
      - {on: functions, database: app, schema: public, privileges: [EXECUTE]}
      - {on: tables, database: app, schema: public, createdBy: app, privileges: [SELECT]}
  - name: blue
    login: true
    connectionLimit: 5
    memberOf: [team, pg_monitor]
    setRole: team
    passwordFrom: {env: BLUE}
  - {name: green, login: rotated, memberOf: [team], setRole: team}
  - {name: standby-login, login: true, replication: true, passwordFrom: {env: REPLICATION}}
`

func newEverything(t *testing.T) (*fixture, *pgx.Conn) {
	t.Helper()
	return newEverythingWith(t, logged)
}

func newEverythingWith(t *testing.T, o parts.Options) (*fixture, *pgx.Conn) {
	t.Helper()
	f := newFixtureWith(t, everything, o)
	f.env["BLUE"], f.env["REPLICATION"] = secretOf("blue"), secretOf("replication")
	admin := f.admin("app")
	f.exec(admin, "SET ROLE app", "CREATE TABLE had(n int)", "CREATE SEQUENCE seq", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"RESET ROLE", "GRANT ALL ON SCHEMA public TO app", "REVOKE ALL ON DATABASE app FROM PUBLIC", "REVOKE ALL ON FUNCTION f FROM PUBLIC")
	return f, admin
}

func TestUpAndDown_Twice_SecondChangesNothing(t *testing.T) {
	for _, newer := range []bool{false, true} {
		t.Run(fmt.Sprintf("newer %v", newer), func(t *testing.T) {
			o := logged
			o.Newer = newer
			testUpAndDown(newEverythingWith(t, o))
		})
	}
}

func testUpAndDown(f *fixture, admin *pgx.Conn) {
	t := f.T
	status, stdout, _ := f.run("verify")
	require.Equal(t, differs, status)
	require.Contains(t, stdout, "role blue: differs: missing; login, connection limit 5, password, member of pg_monitor, member of team, SET role team")
	dry := f.ok("up", "-dry-run")
	require.Contains(t, dry, "role green: would be created (member of team, SET role team)")
	require.Equal(t, "0", f.scalar(admin, "SELECT count(*)::text FROM pg_roles WHERE rolname = 'team'"))

	first := f.ok("up")
	require.Contains(t, first, "role blue: created (login, connection limit 5, password, member of pg_monitor, member of team, SET role team)")
	require.Contains(t, first, "role standby-login: created (login, replication, password)")
	before := f.dump(admin)
	unchanged := "role team: unchanged\nrole blue: unchanged\nrole green: unchanged\nrole standby-login: unchanged\n"
	require.Equal(t, unchanged, f.ok("up"))
	require.Equal(t, unchanged, f.ok("verify"))
	require.Equal(t, before, f.dump(admin))

	f.requireWorks()
	for _, sign := range []string{"hunter", "SCRAM-SHA-256$"} {
		require.NotContains(t, f.db.Log(t), sign, "the server's log")
	}
	require.Contains(t, f.db.Log(t), `CREATE ROLE "blue"`, "the server logs the rest")
	f.exec(admin, "CREATE EXTENSION pg_stat_statements")
	require.Equal(t, "0", f.scalar(admin, "SELECT count(*)::text FROM pg_stat_statements WHERE query ~ 'SCRAM-SHA-256|hunter'"))
	require.NotEqual(t, "0", f.scalar(admin, "SELECT count(*)::text FROM pg_stat_statements WHERE query ~ 'CREATE ROLE'"))

	f.requireGone(admin)
}

// requireWorks uses what was granted.
func (f *fixture) requireWorks() {
	f.Helper()
	blue, err := f.login("blue", secretOf("blue"), "app")
	require.NoError(f, err)
	require.Equal(f, "team", f.scalar(blue, "SELECT current_user::text"))
	f.exec(blue, "INSERT INTO had VALUES (1)", "SELECT nextval('seq'), f()", "CREATE TABLE made(n int)", "CREATE TEMPORARY TABLE t(n int)")
	_, err = blue.Exec(f.Context(), "DELETE FROM had")
	refusedWith(f.T, err, denied)
	app, err := f.login(parts.App.Name, parts.App.Password, "app")
	require.NoError(f, err)
	f.exec(app, "CREATE TABLE future(n int)")
	f.exec(blue, "SELECT FROM future", "SELECT count(*) FROM pg_stat_replication")
	require.NoError(f, blue.Close(f.Context()))

	_, err = f.login("green", "", "app")
	refusedWith(f.T, err, invalidPassword)
	replica, err := pgconn.Connect(f.Context(), fmt.Sprintf("host=127.0.0.1 port=%d user=standby-login password=%s sslmode=disable replication=true",
		f.db.Port, secretOf("replication")))
	require.NoError(f, err)
	_, err = replica.Exec(f.Context(), "IDENTIFY_SYSTEM").ReadAll()
	require.NoError(f, err)

	require.Contains(f, f.fails("down"), "role standby-login is in use by 1 sessions")
	require.NoError(f, replica.Close(f.Context()))
	f.awaitNoSession("blue", "standby-login")
}

func (f *fixture) awaitNoSession(names ...string) {
	f.Helper()
	admin := f.admin("postgres")
	require.Eventually(f, func() bool {
		return f.scalar(admin, "SELECT count(*)::text FROM pg_stat_activity WHERE usename = ANY ($1)", names) == "0"
	}, time.Minute, 10*time.Millisecond)
}

// requireGone drops the roles, twice.
func (f *fixture) requireGone(admin *pgx.Conn) {
	f.Helper()
	require.Contains(f, f.ok("down", "-dry-run"), "role team: would be dropped, 1 objects reassigned to postgres")
	require.Equal(f, "role team: dropped, 1 objects reassigned to postgres\nrole blue: dropped\nrole green: dropped\nrole standby-login: dropped\n", f.ok("down"))
	require.Equal(f, "postgres", f.scalar(admin, "SELECT tableowner::text FROM pg_tables WHERE tablename = 'made'"))
	require.Equal(f, "1", f.scalar(admin, "SELECT count(*)::text FROM had"))
	require.Equal(f, "role team: absent\nrole blue: absent\nrole green: absent\nrole standby-login: absent\n", f.ok("down"))
}

// dump returns everything that could change.
func (f *fixture) dump(admin *pgx.Conn) string {
	f.Helper()
	return f.scalar(admin, `SELECT concat((SELECT json_agg(a ORDER BY oid) FROM pg_authid a), (SELECT json_agg(m ORDER BY m::text) FROM pg_auth_members m),
		(SELECT json_agg(s) FROM pg_db_role_setting s), (SELECT json_agg(json_build_array(relname, relacl)) FROM pg_class WHERE relacl IS NOT NULL),
		(SELECT json_agg(d) FROM pg_default_acl d), (SELECT json_agg(json_build_array(datname, datacl)) FROM pg_database))`)
}

func TestUp_PasswordChanged_OldOneRefused(t *testing.T) {
	f, admin := newEverything(t)
	f.ok("up")
	f.env["BLUE"] = secretOf("blue-2")
	status, stdout, _ := f.run("verify")
	require.Equal(t, differs, status)
	require.Contains(t, stdout, "role blue: differs: password\n")
	require.Contains(t, f.ok("up"), "role blue: changed (password)\n")
	_, err := f.login("blue", secretOf("blue"), "app")
	refusedWith(t, err, invalidPassword)
	_, err = f.login("blue", secretOf("blue-2"), "app")
	require.NoError(t, err)

	const stored = "SELECT rolpassword FROM pg_authid WHERE rolname = 'blue'"
	f.exec(admin, "SET password_encryption = 'md5'", "ALTER ROLE blue PASSWORD '"+secretOf("blue-2")+"'")
	md5 := f.scalar(admin, stored)
	f.env["BLUE"] = md5
	said := f.fails("up")
	require.Contains(t, said, "role blue: its password in the environment variable BLUE is an MD5 hash")
	require.NotContains(t, said, md5)
	require.Equal(t, md5, f.scalar(admin, stored), "the role is unchanged")

	f.env["BLUE"] = secretOf("blue-2")
	require.Contains(t, f.ok("up"), "role blue: changed (password)\n", "an older hash is replaced")
	f.env["BLUE"] = f.scalar(admin, stored)
	require.Contains(t, f.ok("up"), "role blue: unchanged\n", "a Secret may hold the verifier")
}

func TestUp_LessDeclared_TakenAway(t *testing.T) {
	o := logged
	o.Newer = true
	f, admin := newEverythingWith(t, o)
	f.ok("up")
	f.exec(admin, "CREATE ROLE other", "GRANT pg_monitor TO other WITH ADMIN OPTION", "SET ROLE other", "GRANT pg_monitor TO blue", "RESET ROLE")
	require.Equal(t, "2", f.scalar(admin, "SELECT count(*)::text FROM pg_auth_members WHERE member = 'blue'::regrole AND roleid = 'pg_monitor'::regrole"))
	less := strings.NewReplacer("memberOf: [team, pg_monitor]", "memberOf: [team]", "[SELECT, INSERT]", "[SELECT]",
		"createdBy: app, privileges: [SELECT]", "createdBy: app, privileges: []", "{on: functions, database: app, schema: public, privileges: [EXECUTE]}",
		"{on: functions, database: app, schema: public, privileges: []}", "connectionLimit: 5", "replication: true").Replace(everything)
	f.write(less)
	stdout := f.ok("up")
	require.Contains(t, stdout, "role blue: changed (replication, connection limit -1, no member of pg_monitor, no member of pg_monitor)\n")
	require.Contains(t, stdout, "no INSERT on had in app.public, no EXECUTE on f in app.public, no SELECT on future tables of app in app.public")
	require.Equal(t, "false", f.scalar(admin, "SELECT pg_has_role('blue', 'pg_monitor', 'member')::text"))
	require.Equal(t, "false", f.scalar(admin, "SELECT has_table_privilege('team', 'had', 'INSERT')::text"))
	f.write(strings.ReplaceAll(less, "    setRole: team\n", ""))
	require.Contains(t, f.ok("up"), "role blue: changed (no SET role)\n")
}

// What somebody granted by hand, in a way that nobody declared, is taken back to what a plain GRANT gives.
func TestUp_OptionsGrantedByHand_PlainAgain(t *testing.T) {
	for _, newer := range []bool{false, true} {
		t.Run(fmt.Sprintf("newer %v", newer), func(t *testing.T) {
			o := logged
			o.Newer = newer
			testOptionsByHand(newEverythingWith(t, o))
		})
	}
}

func testOptionsByHand(f *fixture, admin *pgx.Conn) {
	f.ok("up")
	before := f.dump(admin)
	f.exec(admin, "GRANT SELECT ON had TO team WITH GRANT OPTION", "GRANT USAGE ON SEQUENCE seq TO team WITH GRANT OPTION",
		"GRANT EXECUTE ON FUNCTION f TO team WITH GRANT OPTION", "GRANT CREATE ON SCHEMA public TO team WITH GRANT OPTION",
		"GRANT CONNECT ON DATABASE app TO team WITH GRANT OPTION",
		"ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA public GRANT SELECT ON TABLES TO team WITH GRANT OPTION",
		"GRANT pg_monitor TO blue WITH ADMIN OPTION")
	blue := "no admin option on pg_monitor"
	if f.scalar(admin, "SELECT count(*)::text FROM pg_attribute WHERE attrelid = 'pg_auth_members'::regclass AND attname = 'set_option'") == "1" {
		f.exec(admin, "GRANT team TO blue WITH INHERIT FALSE, SET FALSE")
		blue += ", member of team with INHERIT true and SET true"
	}
	const team = "no GRANT OPTION FOR CONNECT on database app, no GRANT OPTION FOR CREATE on schema app.public, no GRANT OPTION FOR SELECT on had" +
		" in app.public, no GRANT OPTION FOR USAGE on seq in app.public, no GRANT OPTION FOR EXECUTE on f in app.public," +
		" no GRANT OPTION FOR SELECT on future tables of app in app.public"
	status, stdout, _ := f.run("verify")
	require.Equal(f, differs, status)
	require.Contains(f, stdout, "role team: differs: "+team+"\n")
	require.Contains(f, stdout, "role blue: differs: "+blue+"\n")
	require.Contains(f, f.ok("up"), "role blue: changed ("+blue+")\n")
	require.Equal(f, before, f.dump(admin))
	require.NotContains(f, f.ok("verify"), "differs")
}

// A role that does not inherit is left so: its memberships do not either.
func TestUp_RoleThatDoesNotInherit_Unchanged(t *testing.T) {
	o := logged
	o.Newer = true
	f, admin := newEverythingWith(t, o)
	f.exec(admin, "CREATE ROLE green NOINHERIT")
	f.ok("up")
	require.Contains(t, f.ok("verify"), "role green: unchanged\n")
	f.exec(admin, "GRANT team TO green WITH INHERIT TRUE")
	require.Contains(t, f.ok("up"), "role green: changed (member of team with INHERIT false and SET true)\n")
}

// Owners can lose privileges on their own objects: what they own is not declared, and must not be touched.
func TestUp_LessDeclared_OwnObjectsKeepTheirPrivileges(t *testing.T) {
	f, admin := newEverything(t)
	f.ok("up")
	f.exec(admin, "SET ROLE team", "CREATE TABLE mine(n int)", "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'", "RESET ROLE",
		"SET ROLE app", `CREATE TABLE "Odd ""name"(n int)`, "CREATE FUNCTION f(integer, VARIADIC text[]) RETURNS int LANGUAGE sql AS 'SELECT 1'",
		`GRANT INSERT ON "Odd ""name" TO team`, "GRANT EXECUTE ON FUNCTION f(integer, VARIADIC text[]) TO team", "RESET ROLE")
	const ownPrivileges = `SELECT (SELECT coalesce(relacl::text, 'all') FROM pg_class WHERE relname = 'mine') || (
		SELECT coalesce(proacl::text, 'all') FROM pg_proc WHERE proname = 'mine')`
	own := f.scalar(admin, ownPrivileges)
	f.write(strings.NewReplacer("[SELECT, INSERT]", "[SELECT]", "{on: functions, database: app, schema: public, privileges: [EXECUTE]}",
		"{on: functions, database: app, schema: public, privileges: []}").Replace(everything))
	stdout := f.ok("up")
	require.Contains(t, stdout, "no INSERT on 2 tables in app.public")
	require.Contains(t, stdout, "no EXECUTE on 2 functions in app.public")
	require.Equal(t, "false", f.scalar(admin, `SELECT has_table_privilege('team', '"Odd ""name"', 'INSERT')::text`))
	require.Equal(t, own, f.scalar(admin, ownPrivileges))
}

func TestUp_Rotated_LoginAndPasswordLeftAlone(t *testing.T) {
	f, admin := newEverything(t)
	f.ok("up")
	f.exec(admin, "ALTER ROLE green LOGIN PASSWORD 'x'")
	before := f.dump(admin)
	require.Contains(t, f.ok("up"), "role green: unchanged\n")
	require.Equal(t, before, f.dump(admin))
}

func TestDown_OwnedObjectsWithoutHeir_RefusedAndNothingDropped(t *testing.T) {
	f, admin := newEverything(t)
	f.write(strings.Replace(everything, "reassignTo: postgres\n", "", 1))
	f.ok("up")
	f.exec(admin, "SET ROLE team", "CREATE TABLE mine(n int)", "CREATE TABLE also(n int)", "CREATE SEQUENCE s1", "CREATE SEQUENCE s2",
		"CREATE SEQUENCE s3", "CREATE SEQUENCE s4", "RESET ROLE")
	require.Contains(t, f.ok("verify"), "role team: unchanged\n", "an owner needs no grants")
	before := f.dump(admin)
	said := f.fails("down")
	require.Contains(t, said, "role team owns sequence public.s1, sequence public.s2, sequence public.s3, sequence public.s4, table public.also and 1 more in database app: give it")
	require.Equal(t, before, f.dump(admin))
	require.Contains(t, f.fails("down", "-reassign-to", "nobody"), "there is no role nobody to give it to")
	require.Contains(t, f.fails("down", "-reassign-to", "blue"), "which down drops too")
	require.Contains(t, f.ok("down", "-reassign-to", "app"), "role team: dropped, 6 objects reassigned to app\n")
	require.Equal(t, "app", f.scalar(admin, "SELECT tableowner::text FROM pg_tables WHERE tablename = 'mine'"))
}

// What a transaction makes while the roles are dropped would be dropped too, if it committed between two statements.
func TestDown_OpenTransactionMakesSomething_Refused(t *testing.T) {
	f, admin := newEverything(t)
	f.ok("up")
	f.exec(admin, "BEGIN", "SET LOCAL ROLE team", "CREATE TABLE late(n int)")
	require.Contains(t, f.fails("down"), "an open transaction makes something that role team will own")
	f.exec(admin, "COMMIT", "CREATE DATABASE theirs OWNER team")
	require.Contains(t, f.ok("down"), "role team: dropped, 2 objects reassigned to postgres\n")
	require.Equal(t, "postgres", f.scalar(admin, "SELECT datdba::regrole::text FROM pg_database WHERE datname = 'theirs'"))
	require.Equal(t, "postgres", f.scalar(admin, "SELECT tableowner::text FROM pg_tables WHERE tablename = 'late'"))
}

// If the look before missed something, the transaction sees it, and nobody makes anything until it ends.
func TestClearOut_SomethingOwned_NothingDropped(t *testing.T) {
	f, admin := newEverything(t)
	f.ok("up")
	f.exec(admin, "SET ROLE team", "CREATE TABLE mine(n int)", "RESET ROLE")
	in := dropIn{database: "app"}
	in.add("team", "", holdings{})
	tx, err := f.admin("app").Begin(t.Context())
	require.NoError(t, err)
	require.ErrorContains(t, clearOut(t.Context(), tx, in), "role team still owns table mine: nothing was dropped")
	require.NoError(t, tx.Rollback(t.Context()))
	f.exec(admin, "DROP TABLE mine")

	tx, err = f.admin("app").Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, clearOut(t.Context(), tx, in))
	f.exec(admin, "SET lock_timeout = '200ms'", "SET ROLE team")
	_, err = admin.Exec(t.Context(), "CREATE TEMPORARY TABLE late(n int)")
	refusedWith(t, err, notAvailable)
	require.NoError(t, tx.Rollback(t.Context()))
}

// A role is used by a login that the file does not know, as its member.
func TestDown_MemberNotDeclared_Refused(t *testing.T) {
	f, admin := newEverything(t)
	f.ok("up")
	f.exec(admin, "CREATE ROLE shop LOGIN IN ROLE team", "CREATE ROLE root SUPERUSER IN ROLE team")
	require.Contains(t, f.fails("down"), "role team has members that the file does not declare, and they would lose its privileges: shop. Revoke it from them")
	f.exec(admin, "REVOKE team FROM shop")
	f.awaitNoSession("blue")
	f.ok("down", "-reassign-to", "app")
}

// It may log in after the look. PostgreSQL itself drops a role that is in use.
func TestDropRoles_InUse_Refused(t *testing.T) {
	f, admin := newEverything(t)
	f.ok("up")
	f.exec(admin, "CREATE ROLE late LOGIN PASSWORD 'late-login-of-a-test'")
	late, err := f.login("late", "late-login-of-a-test", "postgres")
	require.NoError(t, err)
	defer late.Close(context.Background())
	tx, err := f.admin("app").Begin(t.Context())
	require.NoError(t, err)
	require.ErrorContains(t, dropRoles(t.Context(), tx, []change{{role: "late", sql: "DROP ROLE late"}}), "role late is in use by 1 sessions")
	require.NoError(t, tx.Rollback(t.Context()))
}

// A session reads a table that is to be given away. While `down` waits for it, other sessions of the server go on.
func TestDown_OwnedTableIsInUse_OthersGoOn(t *testing.T) {
	f, admin := newEverything(t)
	f.ok("up")
	f.exec(admin, "SET ROLE team", "CREATE TABLE mine(n int)", "RESET ROLE")
	reader := f.admin("app")
	f.exec(reader, "BEGIN", "SELECT * FROM mine")
	said := make(chan string, 1)
	go func() {
		_, _, stderr := f.run("down", "-reassign-to", "app")
		said <- stderr
	}()
	require.Eventually(t, func() bool {
		return f.scalar(admin, "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'REASSIGN%'") == "1"
	}, time.Minute, 10*time.Millisecond)
	f.exec(admin, "SET lock_timeout = '2s'", "CREATE TEMPORARY TABLE other(n int)")
	f.exec(reader, "COMMIT")
	require.Empty(t, <-said)
}

// Each database is a transaction of its own. If a later one fails, the next run does the rest.
func TestApply_LaterDatabaseFails_NextRunDoesTheRest(t *testing.T) {
	f, _ := newEverything(t)
	d, err := options{action: up, file: f.file}.declaration(f.getenv)
	require.NoError(t, err)
	s, err := open(t.Context(), targetFrom(f.getenv), defaultWait, io.Discard)
	require.NoError(t, err)
	changes, err := difference(t.Context(), s, d)
	require.NoError(t, err)
	err = apply(t.Context(), s, append(changes, change{role: "team", what: "nonsense", database: "app", sql: "SELECT 1/0"}))
	require.ErrorContains(t, err, "change role team (nonsense): ERROR: division by zero")

	// What replaces a membership may be in the transaction that failed.
	isMember := func() string {
		return f.scalar(f.admin("app"), "SELECT count(*)::text FROM pg_auth_members WHERE roleid = 'team'::regrole AND member = 'blue'::regrole")
	}
	require.Equal(t, "1", isMember())
	ends := change{role: "blue", what: "no member of team", sql: "REVOKE team FROM blue", ends: "team"}
	replaces := change{role: "team2", what: "nonsense", database: "app", sql: "SELECT 1/0"}
	require.ErrorContains(t, apply(t.Context(), s, []change{ends, replaces}), "division by zero")
	require.Equal(t, "1", isMember())
	replaces.sql = "SELECT 1"
	require.NoError(t, apply(t.Context(), s, []change{ends, replaces}))
	require.Equal(t, "0", isMember())

	// A membership that is turned around must end first.
	f.exec(f.admin("app"), "GRANT team TO blue")
	ends.first = true
	begins := change{role: "team", what: "member of blue", sql: "GRANT blue TO team", begins: "blue"}
	require.NoError(t, apply(t.Context(), s, []change{ends, begins, replaces}))
	f.exec(f.admin("app"), "REVOKE blue FROM team")
	s.close()
	stdout := f.ok("up")
	require.Contains(t, stdout, "role team: changed (CONNECT on database app, ")
	require.Contains(t, stdout, "role blue: changed (member of team)\n")
}

// PostgreSQL refuses a membership that makes a loop with one that is to end.
func TestUp_MembershipsTurnedAround_EndFirst(t *testing.T) {
	for name, c := range map[string]struct{ before, after string }{
		"a loop through a role that is dropped from the file": {
			"roles: [{name: r, memberOf: [x]}, {name: x, memberOf: [y]}, {name: y}]", "roles: [{name: y, memberOf: [r]}, {name: r}]",
		},
		"two roles, the new member first": {"roles: [{name: blue, memberOf: [team]}, {name: team}]", "roles: [{name: team, memberOf: [blue]}, {name: blue}]"},
		"a chain, and several databases": {
			"roles: [{name: a, memberOf: [b]}, {name: b, memberOf: [c]}, {name: c}]",
			"roles: [{name: c, memberOf: [a]}, {name: a, memberOf: [b], grants: [{on: schema, database: far, schema: public, privileges: [USAGE]}]}, {name: b}]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, c.before)
			f.exec(f.admin("postgres"), "CREATE DATABASE far")
			f.ok("up")
			f.write(c.after)
			require.Contains(t, f.ok("up"), "no member of")
			require.NotContains(t, f.ok("up"), "changed (", "all is as declared")
		})
	}
}

// A database may have any encoding, such as one that was made with the locale C.
// The server is the same one, whatever a database's time zone is.
func TestUp_DatabaseWithTimeZone_Works(t *testing.T) {
	f := newFixture(t, "roles: [{name: team, grants: [{on: schema, database: far, schema: public, privileges: [USAGE]}]}]")
	f.exec(f.admin("postgres"), "CREATE DATABASE far", "ALTER DATABASE far SET timezone = 'Pacific/Auckland'", "ALTER DATABASE far SET datestyle = 'German'")
	require.Contains(t, f.ok("up"), "role team: created")
	require.Equal(t, "role team: unchanged\n", f.ok("up"))
}

func TestUp_OtherEncoding_Works(t *testing.T) {
	f := newFixture(t, "roles: [{name: tëam}]")
	f.exec(f.admin("postgres"), "CREATE DATABASE old ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0", "ALTER DATABASE old OWNER TO app")
	f.env["POSTGRES_DATABASE"] = "old"
	require.Equal(t, "role tëam: created\n", f.ok("up"))
	require.Equal(t, "role tëam: unchanged\n", f.ok("up"))
}

// With certificates the server is verified before it is told anything.
func TestUp_TLS_ServerVerified(t *testing.T) {
	folder, err := debian.MakeFolder("quiesce-roles")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	certificate := writeCertificate(t, folder)
	f := newFixtureWith(t, "roles: [{name: team}]", parts.Options{Settings: []string{
		"ssl=on", "ssl_cert_file=" + certificate, "ssl_key_file=" + filepath.Join(folder, "key.pem"),
	}})
	delete(f.env, "PGSSLMODE")
	f.env["POSTGRES_HOSTNAME"], f.env["PGSSLROOTCERT"] = "localhost", certificate
	require.Equal(t, "role team: created\n", f.ok("up"))
	f.env["POSTGRES_HOSTNAME"] = "127.0.0.1"
	require.Contains(t, f.fails("up", "-wait", "1s"), "x509: ", "another name")
	f.env["POSTGRES_HOSTNAME"], f.env["PGSSLROOTCERT"] = "localhost", writeCertificate(t, t.TempDir())
	require.Contains(t, f.fails("up", "-wait", "1s"), "x509: ", "another authority")
}

// writeCertificate writes a certificate for localhost and its key, and returns the certificate's path.
func writeCertificate(t *testing.T, folder string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: certificate}, "key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		path := filepath.Join(folder, name)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(block), 0o600))
		require.NoError(t, debian.Chown(path))
	}
	return filepath.Join(folder, "cert.pem")
}

// A privilege that somebody else passed on is that person's to revoke.
func TestUp_GrantedByAnother_LeftAlone(t *testing.T) {
	f, admin := newEverything(t)
	f.ok("up")
	f.exec(admin, "CREATE ROLE another", "GRANT USAGE ON SCHEMA public TO another", "GRANT DELETE ON had TO another WITH GRANT OPTION",
		"SET ROLE another", "GRANT DELETE ON had TO team", "RESET ROLE")
	require.Contains(t, f.ok("up"), "role team: unchanged\n")
	f.exec(admin, "GRANT TRUNCATE ON had TO team")
	require.Contains(t, f.ok("up"), "role team: changed (no TRUNCATE on had in app.public)\n")
}

func TestUp_ManyAtOnce_OneAfterTheOther(t *testing.T) {
	f, _ := newEverything(t)
	const runs = 6
	results := make(chan string, runs)
	for range runs {
		go func() {
			var out, errs bytes.Buffer
			status := run(t.Context(), []string{"up", "-f", f.file}, f.getenv, &out, &errs)
			results <- fmt.Sprint(status, errs.String(), out.String())
		}()
	}
	made := 0
	for range runs {
		result := <-results
		require.True(t, strings.HasPrefix(result, "0"), result)
		made += strings.Count(result, "role blue: created")
	}
	require.Equal(t, 1, made)
	require.Equal(t, 0, strings.Count(f.db.Log(t), "ERROR:  "), f.db.Log(t))
}

func TestUp_LockHeldTooLong_Reported(t *testing.T) {
	f, admin := newEverything(t)
	f.exec(f.admin("postgres"), fmt.Sprintf("SELECT pg_advisory_lock(%d)", advisoryLock))
	require.Contains(t, f.fails("up", "-wait", "1s"), "wait for another run to end")
	require.Equal(t, "0", f.scalar(admin, "SELECT count(*)::text FROM pg_roles WHERE rolname = 'team'"))
}

func TestUp_SeveralHosts_PrimaryIsFound(t *testing.T) {
	f, admin := newEverything(t)
	standby := parts.StartWith(t, parts.Options{StandbyOf: f.db})
	f.env["POSTGRES_HOSTNAME"], f.env["POSTGRES_PORT"] = "127.0.0.1,127.0.0.1", fmt.Sprintf("%d,%d", standby.Port, f.db.Port)
	require.Contains(t, f.ok("up"), "role team: created")
	require.Equal(t, "1", f.scalar(admin, "SELECT count(*)::text FROM pg_roles WHERE rolname = 'team'"))

	f.env["POSTGRES_HOSTNAME"], f.env["POSTGRES_PORT"] = "127.0.0.1", fmt.Sprint(standby.Port)
	said := f.fails("up", "-wait", "1500ms")
	require.Contains(t, said, "roles: waiting for a primary: ")
	require.Contains(t, said, "roles: find a primary in time: check POSTGRES_HOSTNAME")
}

// With sslmode=prefer, pgx asks a standby that takes TLS only a second time, without TLS. What that says is no reason to give up.
func TestIsRefused_StandbyRefusesToTalkWithoutTLS_IsNotRefused(t *testing.T) {
	f, _ := newEverything(t)
	standby := parts.StartWith(t, parts.Options{StandbyOf: f.db})
	config, err := target{hosts: "127.0.0.1", port: fmt.Sprint(standby.Port), user: "postgres", password: f.env["POSTGRES_PASSWORD"], sslMode: "disable"}.config("postgres")
	require.NoError(t, err)
	_, inRecovery := pgx.ConnectConfig(t.Context(), config)
	require.ErrorIs(t, inRecovery, errNotPrimary)
	noEncryption := &pgconn.PgError{Code: "28000", Message: "no pg_hba.conf entry for host, no encryption"}
	require.False(t, isRefused(errors.Join(inRecovery, noEncryption)))
	require.True(t, isRefused(noEncryption))
}

func TestUp_LoginRefused_FailsAtOnce(t *testing.T) {
	f, admin := newEverything(t)
	f.env["POSTGRES_USERNAME"], f.env["POSTGRES_PASSWORD"] = "app", secretOf("wrong")
	began := time.Now()
	require.Contains(t, f.fails("up"), "log in: check POSTGRES_USERNAME and POSTGRES_PASSWORD")
	require.Less(t, time.Since(began), defaultWait/2)
	f.exec(admin, "GRANT pg_monitor TO app")
	f.env["POSTGRES_PASSWORD"] = parts.App.Password
	require.Contains(t, f.fails("up"), "user app is no superuser")
}

func TestUp_WithoutFile_UserForReplication(t *testing.T) {
	f := newFixture(t, "")
	_, _, stderr := f.runRaw("up")
	require.Contains(t, stderr, "role replicator: its password is empty: set the environment variable POSTGRES_REPLICATION_PASSWORD")
	f.env["POSTGRES_REPLICATION_PASSWORD"] = secretOf("r")
	for _, want := range []string{"role replicator: created (login, replication, password)\n", "role replicator: unchanged\n"} {
		_, stdout, stderr := f.runRaw("up")
		require.Equal(t, want, stdout, stderr)
	}
	for _, want := range []string{"role replicator: dropped\n", "role replicator: absent\n"} {
		_, stdout, stderr := f.runRaw("down")
		require.Equal(t, want, stdout, stderr)
	}
}

func TestUp_Unknown_NamedAndNothingMade(t *testing.T) {
	f := newFixture(t, `
roles:
  - name: a
    memberOf: [nobody, pg_monitor]
    grants:
      - {on: tables, database: app, schema: elsewhere, privileges: [SELECT]}
      - {on: database, database: nowhere, privileges: [CONNECT]}
      - {on: tables, database: app, schema: public, createdBy: noone, privileges: [SELECT]}
`)
	said := f.fails("up")
	require.Contains(t, said, "there is no role nobody: declare it, or correct the name")
	require.Contains(t, said, "there is no role noone")
	require.Contains(t, said, "schema elsewhere of database app does not exist")
	require.Contains(t, said, "database nowhere does not exist")
	require.Equal(t, "0", f.scalar(f.admin("postgres"), "SELECT count(*)::text FROM pg_roles WHERE rolname = 'a'"))
}

// Names and passwords are data, whatever is in them.
func TestUp_OddNames_Quoted(t *testing.T) {
	f := newFixture(t, `
roles:
  - {name: 'x"; DROP TABLE t; --', login: true, passwordFrom: {env: ODD}, memberOf: ["It's"], setRole: "It's"}
  - {name: "It's"}
`)
	f.env["ODD"] = `hunter' \ "$1" ` + "\u2168"
	f.ok("up")
	require.NotContains(t, f.ok("up"), "changed (")
	require.Equal(t, "1", f.scalar(f.admin("postgres"), `SELECT count(*)::text FROM pg_roles WHERE rolname = 'x"; DROP TABLE t; --'`))
	f.ok("down")
}

// The server computes its own verifier of each password. Ours must match it, or clients could not log in.
func TestSASLprep_Server_HasTheSameKeys(t *testing.T) {
	t.Parallel()
	f := &fixture{T: t, db: parts.StartWith(t, parts.Options{})}
	admin := f.admin("postgres")
	f.exec(admin, "CREATE ROLE x", "SET password_encryption = 'scram-sha-256'")
	for _, password := range []string{
		"pencil", "I\u00adX", "\u00aa", "\u2168", "a\u00a0b", "a\u200bb", "e\u0301", "\u00ad", "\u2168\U0001f600", "\u2168\ue000", "\u2168\u05d0", "\u05d0\ufb1d",
		"\u05d0\u00ad\u05d0", "\u05d01", "\u2168\u0221", "\u2168\u2028", "\u2168\ufffd", "\u1100\u1161", "\ufb01", "\u212b", "\u3000\u2168", "\u2168\u0007", "Ⅷ\u0340", "\u0627\u0031\u0628",
	} {
		f.exec(admin, "ALTER ROLE x PASSWORD '"+password+"'")
		require.True(t, secret{password}.isSet(f.scalar(admin, "SELECT rolpassword FROM pg_authid WHERE rolname = 'x'")), "%+q", password)
	}
}
