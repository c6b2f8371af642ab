package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/scram"
)

func parsed(t *testing.T, text string) declaration {
	t.Helper()
	d, err := parse([]byte(text))
	require.NoError(t, err)
	return d
}

func TestParse_EveryKey_IsRead(t *testing.T) {
	limit := 7
	require.Equal(t, declaration{ReassignTo: "owner", Roles: []role{
		{Name: "team", Grants: []grant{
			{On: onDatabase, Database: "app", Privileges: []string{"CONNECT"}},
			{On: onTables, Database: "app", Schema: "public", CreatedBy: "owner", Privileges: []string{"SELECT"}},
		}},
		{
			Name: "blue", Login: login, Replication: true, ConnectionLimit: &limit, MemberOf: []string{"pg_monitor", "team"}, SetRole: "team",
			PasswordFrom: source{Env: "BLUE"}, ReassignTo: "other",
		},
		{Name: "green", Login: rotated, MemberOf: []string{"team"}},
	}}, parsed(t, `
reassignTo: owner
roles:
  - name: team
    login: false
    grants:
      - {on: database, database: app, privileges: [CONNECT]}
      - {on: tables, database: app, schema: public, createdBy: owner, privileges: [SELECT]}
  - name: blue
    login: true
    replication: true
    connectionLimit: 7
    memberOf: [team, pg_monitor]
    setRole: team
    passwordFrom: {env: BLUE}
    reassignTo: other
  - {name: green, login: rotated, memberOf: [team]}
`))
}

func TestParse_GrantsOfAMergeKey_AreChecked(t *testing.T) {
	const base = "roles:\n- &base {name: a, grants: [{on: database, database: app%s}]}\n- {<<: *base, name: b}"
	require.Equal(t, []string{"CONNECT"}, parsed(t, fmt.Sprintf(base, ", privileges: [CONNECT]")).Roles[1].Grants[0].Privileges)
	_, err := parse([]byte(fmt.Sprintf(base, "")))
	require.ErrorContains(t, err, "privileges is missing")
}

func TestParse_Mistakes_LineKeyAndReason(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "it is empty",
		"roles: []":                           "line 1: roles: there are none",
		"roles:\n- nam: x":                    "line 2: unknown key nam",
		"roles:\n- name: [":                   "not YAML",
		"roles:\n- {name: a}\n---\nroles: []": "only one YAML document is allowed",
		"roles:\n- {}":                        "line 2: roles[0].name: a name is missing",
		"roles:\n- {name: a}\n- {name: a}":    "line 3: roles[1].name: a is declared twice",
		"roles:\n- {name: public}":            "line 2: roles[0].name: not a name that PostgreSQL allows",
		"roles:\n- {name: " + strings.Repeat("a", 64) + "}":                                                 "roles[0].name: longer than the 63 bytes",
		"roles:\n- {name: a, login: maybe}":                                                                 "line 2: login must be true, false or rotated",
		"roles:\n- {name: a, login: true, passwordFrom: {env: A, file: b}}":                                 "roles[0].passwordFrom: env or file, not both",
		"roles:\n- name: a\n  passwordFrom: {env: A}":                                                       "line 3: roles[0].passwordFrom: a role without login",
		"roles:\n- {name: a, login: rotated, passwordFrom: {env: A}}":                                       "a rotation sets the password",
		"roles:\n- {name: a, replication: true}":                                                            "roles[0].replication: needs login: true",
		"roles:\n- {name: a, connectionLimit: -2}":                                                          "roles[0].connectionLimit",
		"roles:\n- {name: a, memberOf: [b, a]}":                                                             "roles[0].memberOf[1]: a is itself",
		"roles:\n- {name: a, login: true, setRole: b}":                                                      "roles[0].setRole: only a login that is a member of b",
		"reassignTo: a\nroles:\n- {name: a}":                                                                "line 2: roles: what role a owns would go to a",
		"roles:\n- {name: a, grants: [{on: table}]}":                                                        "roles[0].grants[0].on: must be database, schema",
		"roles:\n- {name: a, grants: [{on: database, privileges: []}]}":                                     "roles[0].grants[0].database: is missing",
		"roles:\n- {name: a, grants: [{on: tables, database: d, privileges: []}]}":                          "roles[0].grants[0].schema: belongs to",
		"roles:\n- {name: a, grants: [{on: database, database: d}]}":                                        "roles[0].grants[0]: privileges is missing",
		"roles:\n- {name: a, grants: [{on: schema, database: d, schema: s, createdBy: b, privileges: []}]}": "createdBy: belongs to tables",
		"roles:\n- {name: a, grants: [{on: database, database: d, privileges: [SELECT]}]}":                  "privileges[0]: must be one of CONNECT",
		"roles:\n- name: a\n  grants:\n  - {on: database, database: d, privileges: []}\n  - {on: database, database: d, privileges: [CONNECT]}": "line 5: roles[0].grants[1]: a second grant on database d",
	} {
		_, err := parse([]byte(text))
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "main.", text)
	}
}

func TestParse_PasswordInTheFile_RefusedAndNotPrinted(t *testing.T) {
	for text, want := range map[string]string{
		"roles:\n- {name: a, login: true, password: hunter2}":              "line 2: unknown key password: name its place with passwordFrom",
		"roles:\n- {name: a, login: true, passwordFrom: hunter2}":          "line 2: a str does not belong here",
		"roles:\n- {name: a, login: hunter2}":                              "line 2: login must be",
		"roles:\n- {name: a, connectionLimit: hunter2}":                    "line 2: a str does not belong here",
		"roles:\n- name: a\n  passwordFrom: {env: A}\n hunter2: [hunter2,": "not YAML",
	} {
		_, err := parse([]byte(text))
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "hunter2", text)
	}
}

func TestResolve_Passwords_FromEnvironmentAndFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte("from a file\n"), 0o600))
	d := declaration{Roles: []role{
		{Name: "a", PasswordFrom: source{Env: "A"}}, {Name: "b", PasswordFrom: source{File: file}}, {Name: "c"},
	}}
	require.NoError(t, d.resolve(func(name string) string { return map[string]string{"A": "from A"}[name] }))
	require.Equal(t, "from A", d.Roles[0].Password.text)
	require.Equal(t, "from a file", d.Roles[1].Password.text)
	require.Nil(t, d.Roles[2].Password)
}

func TestResolve_Mistakes_NamedWithoutPassword(t *testing.T) {
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "two"), []byte("hunter2\nhunter3\n"), 0o600))
	d := declaration{Roles: []role{
		{Name: "a", PasswordFrom: source{Env: "A"}}, {Name: "b", PasswordFrom: source{File: filepath.Join(folder, "none")}},
		{Name: "c", PasswordFrom: source{File: filepath.Join(folder, "two")}},
	}}
	err := d.resolve(func(string) string { return "" })
	require.ErrorContains(t, err, "role a: its password is empty: set the environment variable A")
	require.ErrorContains(t, err, "role b: read its password: open")
	require.ErrorContains(t, err, "role c: its password in the file")
	require.NotContains(t, err.Error(), "hunter")
}

// Such a text would become a password, and clients with the real one could no longer log in.
func TestResolve_HashThatIsNoVerifier_Refused(t *testing.T) {
	v, err := scram.New("pencil", scram.Iterations)
	require.NoError(t, err)
	const hash = "md5a6a0e3b0e6e29f1e5b8f1c8a8b7f1c9e"
	resolve := func(text string) error {
		d := declaration{Roles: []role{{Name: "a", PasswordFrom: source{Env: "A"}}}}
		return d.resolve(func(string) string { return text })
	}
	for text, want := range map[string]string{
		hash:                  "role a: its password in the environment variable A is an MD5 hash",
		v.Stored() + "=":      "is not a complete SCRAM-SHA-256 verifier",
		"SCRAM-SHA-256$4096:": "is not a complete SCRAM-SHA-256 verifier",
	} {
		err := resolve(text)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), text)
	}
	for _, text := range []string{v.Stored(), "md5", hash + "0", "SCRAM-SHA-256"} {
		require.NoError(t, resolve(text), text)
	}
}
