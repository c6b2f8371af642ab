package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/archive"
	"quiesce/internal/doctor"
	"quiesce/test/parts/pgbouncer"
	"quiesce/test/parts/postgres"
)

var (
	example    = regexp.MustCompile("(?ms)^```console\n\\$ quiescectl ((?:[^\n]*\\\\\n)*[^\n]*)\n(.*?)^```")
	sqlExample = regexp.MustCompile("(?s)```sql\n(.*?)```")
	checkRow   = regexp.MustCompile("(?m)^\\| `([a-z]+-[a-z-]+|reading)` \\|")
)

//go:embed README.md
var readme string

// runExamples runs the examples of the page with these commands, and requires each line that the page shows.
func runExamples(t *testing.T, env []string, commands ...string) {
	t.Helper()
	runExamplesWith(t, env, "{cluster: prod, autoScalingGroups: [workers-a], mode: drain}", commands...)
}

// runExamplesWith runs them in a folder that has this quiesce.yaml, and a report.
func runExamplesWith(t *testing.T, env []string, settings string, commands ...string) {
	t.Helper()
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("quiesce.yaml", []byte(settings), 0o600))
	encoded, err := json.Marshal(drainReport())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile("report.json", encoded, 0o600))
	ran := map[string]bool{}
	for _, found := range example.FindAllStringSubmatch(readme, -1) {
		args := strings.Fields(strings.ReplaceAll(found[1], "\\\n", " "))
		if !slices.Contains(commands, args[0]) {
			continue
		}
		ran[args[0]] = true
		lines := slices.Collect(strings.Lines(found[2]))
		if args[0] == "doctor" {
			(&world{T: t}).doctor(env, lines, args[1:]...)
			continue
		}
		got := quiescectl(t, env, args...)
		require.NotEqual(t, exitError, got.status, "%s: %s", found[1], got.progress)
		for _, line := range lines {
			require.Contains(t, got.out+got.progress, line, found[1])
		}
	}
	require.ElementsMatch(t, commands, slices.Collect(maps.Keys(ran)))
}

func TestReadme_ExamplesOfTheFunction_ShowItsAnswers(t *testing.T) {
	runExamples(t, newAccount(t).env, "plan", "check", "drain", "switchover", "sweep")
}

func TestReadme_ExamplesOfInstall_Run(t *testing.T) {
	w := newWorld(t)
	w.applyText("{apiVersion: v1, kind: Namespace, metadata: {name: db}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: crm}}\n")
	runExamplesWith(t, w.env, "{cluster: prod, autoScalingGroups: [workers-a], mode: drain, phases: [{name: poolers, match: {namespaces: [db]}, "+
		"escort: {pgbouncer: {secretRef: {namespace: db, name: pgbouncer-admin}}}}, {name: workloads}]}", "install")
}

func TestReadme_ExamplesOfTimeline_Run(t *testing.T) {
	server, settings := newBucket(t)
	require.NoError(t, archive.New(settings, "reports", "prod").Store(t.Context(), drainReport()))
	runExamples(t, server.Environment(server.Session("person")), "timeline")
}

// The pooler of the example has not started yet, as a simulated kubelet runs no console.
func TestReadme_ExampleOfRotate_Runs(t *testing.T) {
	pgbouncer.Require(t)
	w, database := newWorld(t), postgres.Shared(t)
	database.Query(t, "DROP ROLE IF EXISTS app_blue, app_green")
	for _, sql := range strings.Split(strings.TrimSpace(sqlExample.FindStringSubmatch(readme)[1]), "\n") {
		if !strings.HasPrefix(sql, "CREATE ROLE app ") { // the tests' database has it
			database.Query(t, sql)
		}
	}
	database.Query(t, "ALTER ROLE app_blue PASSWORD 'the password in use'")
	w.applyText(`
apiVersion: v1
kind: Namespace
metadata: {name: db}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Secret
metadata: {name: pgbouncer-userlist, namespace: db}
stringData: {userlist.txt: '"app_blue" "the password in use"'}
---
apiVersion: v1
kind: Secret
metadata: {name: pgbouncer-admin, namespace: db}
stringData: {username: pgbouncer, password: secret}
---
apiVersion: v1
kind: Secret
metadata: {name: database, namespace: shop}
stringData: {username: app_blue, password: the password in use}
---
apiVersion: v1
kind: Pod
metadata: {name: pgbouncer-0, namespace: db}
spec:
  containers: [{name: pgbouncer, image: pgbouncer, volumeMounts: [{name: list, mountPath: /etc/userlist}]}]
  volumes: [{name: list, secret: {secretName: pgbouncer-userlist}}]
`)
	env := append(w.env, "PGHOST=127.0.0.1", fmt.Sprintf("PGPORT=%d", database.Port), "PGUSER=postgres", "PGSSLMODE=disable", "PGDATABASE=postgres")
	runExamples(t, env, "rotate")
}

func TestReadme_Checks_AreAll(t *testing.T) {
	var names []string
	for _, found := range checkRow.FindAllStringSubmatch(readme, -1) {
		names = append(names, found[1])
	}
	require.Equal(t, doctor.Names(), names)
}

// The first screen of the project shows what doctor says.
func TestTopReadme_Doctor_IsReal(t *testing.T) {
	page, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	real, err := os.ReadFile("testdata/faulty.txt")
	require.NoError(t, err)
	shown := regexp.MustCompile("(?m)^(CRITICAL|WARNING|INFO) .*$").FindAllString(string(page), -1)
	require.NotEmpty(t, shown)
	for _, line := range shown {
		require.Contains(t, string(real), line+"\n")
	}
}
