package config_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
)

func splitList(text string) []string { return strings.Split(text, ", ") }

// faultsOf are the faults that a file has, as a person sees them.
func faultsOf(t *testing.T, text string) []string {
	_, err := config.Parse([]byte(text), bare)
	return lines(t, err)
}

func lines(t *testing.T, err error) []string {
	var faults config.Errors
	require.ErrorAs(t, err, &faults)
	require.NotEmpty(t, faults)
	return strings.Split(faults.Error(), "\n")
}

func TestAllFaultsAreReportedTogetherEachWithItsKeyAndLine(t *testing.T) {
	require.Equal(t, []string{
		`quiesce.yaml:2: cluster: not a cluster's name: "prod/eu"`,
		`quiesce.yaml:3: autoScalingGroups[1]: not a name or a glob: batch-[`,
		`quiesce.yaml:3: autoScalingGroups[2]: given twice: workers-a`,
		`quiesce.yaml:4: mode: must be drain or shadow: dry`,
		`quiesce.yaml:5: lifecycle.onfailure: unknown key`,
		`quiesce.yaml:7: drain.maxDuration: must be longer than zero`,
		`quiesce.yaml:8: drain.reserve: must not be negative: -30s`,
		`quiesce.yaml:9: drain.concurrency: must be from 1 to 1000: 0`,
		`quiesce.yaml:10: drain.joinGrace: must be a duration such as 30s: 15`,
		`quiesce.yaml:11: drain.onDeadline: must be force or leave: kill`,
		`quiesce.yaml:14: phases[0].match.labelSelector: not a label selector: unable to parse requirement: found '=', expected: ',', ')' or identifier`,
		`quiesce.yaml:16: phases[1].timeout: must be longer than zero`,
		`quiesce.yaml:16: phases[1].name: given to two phases: poolers`,
		`quiesce.yaml:17: phases[2].match: missing: only the phase workloads and a phase with an escort can do without`,
		`quiesce.yaml:18: allowManualDrain: must be true or false: yes`,
	}, faultsOf(t, `
cluster: prod/eu
autoScalingGroups: [workers-a, "batch-[", workers-a]
mode: dry
lifecycle: {onfailure: CONTINUE}
drain:
  maxDuration: 0s
  reserve: -30s
  concurrency: 0
  joinGrace: 15
  onDeadline: kill
phases:
  - name: poolers
    match: {labelSelector: "app in (=)"}
    settle: 5s
  - {name: poolers, match: {namespaces: [db]}, timeout: 0s}
  - name: others
allowManualDrain: yes
`))
}

func TestABadFileIsRefused(t *testing.T) {
	with := func(more string) string { return least[:len(least)-1] + ", " + more + "}" }
	escort := func(settings string) string {
		return with("phases: [{name: p, escort: {pgbouncer: {" + settings + "}}}]")
	}
	for text, want := range map[string]string{
		"":                                       "quiesce.yaml:1: cluster: missing, and CLUSTER_NAME is not set\nquiesce.yaml:1: autoScalingGroups: missing",
		"--- # none":                             "quiesce.yaml:1: cluster: missing, and CLUSTER_NAME is not set\nquiesce.yaml:1: autoScalingGroups: missing",
		"cluster: [":                             "quiesce.yaml:1: not YAML: did not find expected node content",
		"a: *b":                                  "quiesce.yaml:1: not YAML: unknown anchor 'b' referenced",
		"- prod":                                 "quiesce.yaml:1: must be a mapping",
		least + "\n---\n" + least:                "quiesce.yaml:2: a second document",
		"{cluster: prod, autoScalingGroups: }":   "quiesce.yaml:1: autoScalingGroups: missing",
		"{cluster: prod, autoScalingGroups: []}": "quiesce.yaml:1: autoScalingGroups: must not be empty",
		"{cluster: prod, autoScalingGroups: a}":  "quiesce.yaml:1: autoScalingGroups: must be a list",
		"{cluster: prod, autoScalingGroups: ['']}":                                    "quiesce.yaml:1: autoScalingGroups[0]: must not be empty",
		"{cluster: prod, autoScalingGroups: [7]}":                                     "quiesce.yaml:1: autoScalingGroups[0]: must be a string: 7",
		"{cluster: prod, autoScalingGroups: [null]}":                                  "quiesce.yaml:1: autoScalingGroups[0]: must be a string: null",
		"{cluster: 7, autoScalingGroups: [a]}":                                        "quiesce.yaml:1: cluster: must be a string: 7",
		"{cluster: '', autoScalingGroups: [a]}":                                       "quiesce.yaml:1: cluster: must not be empty",
		"{autoScalingGroups: [a]}":                                                    "quiesce.yaml:1: cluster: missing, and CLUSTER_NAME is not set",
		with("Mode: drain"):                                                           "quiesce.yaml:1: Mode: unknown key",
		with("<<: {mode: drain}"):                                                     "quiesce.yaml:1: <<: unknown key",
		with("mode: drain, mode: shadow"):                                             "quiesce.yaml:1: mode: given twice",
		with("mode: {a: b}"):                                                          "quiesce.yaml:1: mode: must be a string",
		with("lifecycle: quiesce"):                                                    "quiesce.yaml:1: lifecycle: must be a mapping",
		with("lifecycle: {hook: ''}"):                                                 "quiesce.yaml:1: lifecycle.hook: must not be empty",
		with("lifecycle: {hook: 'a hook'}"):                                           "quiesce.yaml:1: lifecycle.hook: not the name of a hook: a hook",
		with("lifecycle: {onFailure: continue}"):                                      "quiesce.yaml:1: lifecycle.onFailure: must be CONTINUE or ABANDON: continue",
		with("drain: {maxDuration: 20s}"):                                             "quiesce.yaml:1: drain.reserve: must be shorter than drain.maxDuration: 30s is not shorter than 20s",
		with("drain: {reserve: 30m}"):                                                 "quiesce.yaml:1: drain.reserve: must be shorter than drain.maxDuration: 30m0s is not shorter than 30m0s",
		with("drain: {joinGrace: 1h}"):                                                "quiesce.yaml:1: drain.joinGrace: must be shorter than drain.maxDuration: 1h0m0s is not shorter than 30m0s",
		with("drain: {volumeDetach: 1h}"):                                             "quiesce.yaml:1: drain.volumeDetach: must be shorter than drain.maxDuration: 1h0m0s is not shorter than 30m0s",
		with("drain: {concurrency: 1.5}"):                                             "quiesce.yaml:1: drain.concurrency: must be a whole number: 1.5",
		with("drain: {concurrency: 99999999999999999}"):                               "quiesce.yaml:1: drain.concurrency: must be from 1 to 1000: 99999999999999999",
		with("drain: {maxDuration: forever}"):                                         "quiesce.yaml:1: drain.maxDuration: must be a duration such as 30s: forever",
		with("drain: {maxDuration: true}"):                                            "quiesce.yaml:1: drain.maxDuration: must be a duration such as 30s: true",
		with("phases: {}"):                                                            "quiesce.yaml:1: phases: must be a list",
		with("phases: []"):                                                            "quiesce.yaml:1: phases: must not be empty",
		with("phases: [workloads]"):                                                   "quiesce.yaml:1: phases[0]: must be a mapping",
		with("phases: [{match: {namespaces: [a]}}]"):                                  "quiesce.yaml:1: phases[0].name: missing",
		with("phases: [{name: a, match: {labelSelector: ' '}}]"):                      "quiesce.yaml:1: phases[0].match.labelSelector: selects every pod:  ",
		with("phases: [{name: a, match: {}}]"):                                        "quiesce.yaml:1: phases[0].match: must have a condition: labelSelector, namespaces or priorityClassNames",
		with("phases: [{name: a, match: {ownerKinds: [Job], namespaces: [a]}}]"):      "quiesce.yaml:1: phases[0].match.ownerKinds: unknown key",
		with("phases: [{name: a, match: {namespaces: ['[']}}]"):                       "quiesce.yaml:1: phases[0].match.namespaces[0]: not a name or a glob: [",
		with("phases: [{name: workloads, match: {namespaces: [a]}}]"):                 "quiesce.yaml:1: phases[0].match: not for the phase workloads, which takes the pods that no other phase matches",
		with("phases: [{name: workloads, settle: -1s}]"):                              "quiesce.yaml:1: phases[0].settle: must not be negative: -1s",
		with("phases: [{name: workloads, escort: {}}]"):                               "quiesce.yaml:1: phases[0].escort: must be {pgbouncer: ...}: there is no other escort",
		escort("strategy: pause"):                                                     "quiesce.yaml:1: phases[0].escort.pgbouncer.strategy: must be auto, evict or surge: pause",
		escort("timeout: 0s"):                                                         "quiesce.yaml:1: phases[0].escort.pgbouncer.timeout: must be longer than zero",
		escort("via: exec"):                                                           "quiesce.yaml:1: phases[0].escort.pgbouncer.via: must be podIP or portForward: exec",
		escort("port: 65536"):                                                         "quiesce.yaml:1: phases[0].escort.pgbouncer.port: must be from 1 to 65535: 65536",
		escort("tls: yes"):                                                            "quiesce.yaml:1: phases[0].escort.pgbouncer.tls: must be disable, prefer, require or verify-full: yes",
		escort("tls: verify-full, serverName: a"):                                     "quiesce.yaml:1: phases[0].escort.pgbouncer.caBundle: missing",
		escort("tls: verify-full, serverName: a, caBundle: x"):                        "quiesce.yaml:1: phases[0].escort.pgbouncer.caBundle: has no certificate in PEM",
		escort("tls: require, serverName: a"):                                         "quiesce.yaml:1: phases[0].escort.pgbouncer.tls: serverName and caBundle are for verify-full, and nothing is verified by require",
		escort("secretArn: a"):                                                        "quiesce.yaml:1: phases[0].escort.pgbouncer.secretArn: not the ARN of a secret: a",
		escort("secretArn: 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:s'"): "quiesce.yaml:1: phases[0].match: namespaces: missing: credentials of Secrets Manager are for the poolers of these namespaces, and no others",
		escort("secretRef: {name: s}"):                                                "quiesce.yaml:1: phases[0].escort.pgbouncer.secretRef.namespace: missing",
		escort("password: s3cret"):                                                    "quiesce.yaml:1: phases[0].escort.pgbouncer.password: unknown key",
		escort("secretRef: {namespace: n, name: s}, secretArn: 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:s'"): "quiesce.yaml:1: phases[0].escort.pgbouncer.secretArn: given beside secretRef: the credentials are in one place or the other",
	} {
		require.Equal(t, strings.Split(want, "\n"), faultsOf(t, text), text)
	}
}

func TestAMissingFileIsAFaultBesideThoseOfTheEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	_, err := config.Load(environment(map[string]string{"QUIESCE_CONFIG": path, "QUIESCE_DLQ_URL": "dlq"}))
	require.Equal(t, []string{
		"QUIESCE_CONFIG: open " + path + ": no such file or directory",
		`QUIESCE_DLQ_URL: not a URL with https or http: "dlq"`,
	}, lines(t, err))
}

func TestALoggerWritesTheFaultsAsOneJSONLine(t *testing.T) {
	_, err := config.Parse([]byte("drain: {reserve: -30s}"), environment(map[string]string{"CLUSTER_NAME": "a b"}))
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Error("bad configuration", "faults", err)

	require.Equal(t, 1, strings.Count(out.String(), "\n"))
	var line struct{ Faults config.Errors }
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	require.Equal(t, config.Errors{
		{Key: "CLUSTER_NAME", Reason: `not a cluster's name: "a b"`},
		{Line: 1, Key: "cluster", Reason: "missing, and CLUSTER_NAME is not set"},
		{Line: 1, Key: "autoScalingGroups", Reason: "missing"},
		{Line: 1, Key: "drain.reserve", Reason: "must not be negative: -30s"},
	}, line.Faults)
}
