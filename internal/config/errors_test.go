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

// errorsOf returns the errors in a file, as people see them.
func errorsOf(t *testing.T, text string) []string {
	_, err := config.Parse([]byte(text), bare)
	return lines(t, err)
}

func lines(t *testing.T, err error) []string {
	var errs config.Errors
	require.ErrorAs(t, err, &errs)
	require.NotEmpty(t, errs)
	return strings.Split(errs.Error(), "\n")
}

func TestParse_ManyErrors_ReportsEachWithKeyAndLine(t *testing.T) {
	require.Equal(t, []string{
		`quiesce.yaml:2: cluster: not a cluster name: "prod/eu"`,
		`quiesce.yaml:3: autoScalingGroups[1]: not a name or a glob: batch-[`,
		`quiesce.yaml:3: autoScalingGroups[2]: duplicate: workers-a`,
		`quiesce.yaml:4: mode: must be shadow or drain: dry`,
		`quiesce.yaml:5: lifecycle.onfailure: unknown key; did you mean onFailure?`,
		`quiesce.yaml:7: drain.maxDuration: must be longer than zero`,
		`quiesce.yaml:8: drain.completionReserve: must not be negative: -30s`,
		`quiesce.yaml:9: drain.maxConcurrentEvictions: must be from 1 to 1000: 0`,
		`quiesce.yaml:10: drain.nodeJoinTimeout: must be a duration such as 30s: 15`,
		`quiesce.yaml:11: drain.onDeadline: must be force or keep: kill`,
		`quiesce.yaml:14: phases[0].match.labelSelector: not a label selector: unable to parse requirement: found '=', expected: ',', ')' or identifier`,
		`quiesce.yaml:16: phases[1].timeout: must be longer than zero`,
		`quiesce.yaml:16: phases[1].name: two phases have this name: poolers`,
		`quiesce.yaml:17: phases[2].match: required, except in phase workloads and in a phase with an escort`,
		`quiesce.yaml:18: allowManualDrain: must be true or false: yes`,
	}, errorsOf(t, `
cluster: prod/eu
autoScalingGroups: [workers-a, "batch-[", workers-a]
mode: dry
lifecycle: {onfailure: CONTINUE}
drain:
  maxDuration: 0s
  completionReserve: -30s
  maxConcurrentEvictions: 0
  nodeJoinTimeout: 15
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

func TestParse_InvalidFile_IsRefused(t *testing.T) {
	with := func(more string) string { return least[:len(least)-1] + ", " + more + "}" }
	escort := func(settings string) string {
		return with("phases: [{name: p, escort: {pgbouncer: {" + settings + "}}}]")
	}
	for text, want := range map[string]string{
		"":                        "quiesce.yaml:1: cluster: required, because CLUSTER_NAME is not set\nquiesce.yaml:1: autoScalingGroups: required\nquiesce.yaml:1: mode: required: shadow or drain",
		"--- # none":              "quiesce.yaml:1: cluster: required, because CLUSTER_NAME is not set\nquiesce.yaml:1: autoScalingGroups: required\nquiesce.yaml:1: mode: required: shadow or drain",
		"cluster: [":              "quiesce.yaml:1: not YAML: did not find expected node content",
		"a: *b":                   "quiesce.yaml:1: not YAML: unknown anchor 'b' referenced",
		"- prod":                  "quiesce.yaml:1: must be a mapping",
		least + "\n---\n" + least: "quiesce.yaml:2: only one YAML document is allowed",
		"{cluster: prod, mode: drain, autoScalingGroups: }":                                  "quiesce.yaml:1: autoScalingGroups: required",
		"{cluster: prod, mode: drain, autoScalingGroups: []}":                                "quiesce.yaml:1: autoScalingGroups: must not be empty",
		"{cluster: prod, mode: drain, autoScalingGroups: a}":                                 "quiesce.yaml:1: autoScalingGroups: must be a list",
		"{cluster: prod, mode: drain, autoScalingGroups: ['']}":                              "quiesce.yaml:1: autoScalingGroups[0]: must not be empty",
		"{cluster: prod, mode: drain, autoScalingGroups: [7]}":                               "quiesce.yaml:1: autoScalingGroups[0]: must be a string: 7",
		"{cluster: prod, mode: drain, autoScalingGroups: [null]}":                            "quiesce.yaml:1: autoScalingGroups[0]: must be a string: null",
		"{cluster: 7, mode: drain, autoScalingGroups: [a]}":                                  "quiesce.yaml:1: cluster: must be a string: 7",
		"{cluster: '', mode: drain, autoScalingGroups: [a]}":                                 "quiesce.yaml:1: cluster: must not be empty",
		"{mode: drain, autoScalingGroups: [a]}":                                              "quiesce.yaml:1: cluster: required, because CLUSTER_NAME is not set",
		with("Mode: drain"):                                                                  "quiesce.yaml:1: Mode: unknown key; did you mean mode?",
		with("<<: {mode: drain}"):                                                            "quiesce.yaml:1: <<: unknown key",
		with("mode: shadow"):                                                                 "quiesce.yaml:1: mode: duplicate key",
		"{cluster: prod, autoScalingGroups: [a], mode: {a: b}}":                              "quiesce.yaml:1: mode: must be a string",
		with("lifecycle: quiesce"):                                                           "quiesce.yaml:1: lifecycle: must be a mapping",
		with("lifecycle: {hook: ''}"):                                                        "quiesce.yaml:1: lifecycle.hook: must not be empty",
		with("lifecycle: {hook: 'a hook'}"):                                                  "quiesce.yaml:1: lifecycle.hook: not a hook name: a hook",
		with("lifecycle: {onFailure: continue}"):                                             "quiesce.yaml:1: lifecycle.onFailure: must be CONTINUE or ABANDON: continue",
		with("drain: {maxDuration: 20s}"):                                                    "quiesce.yaml:1: drain.completionReserve: must be shorter than drain.maxDuration: 30s is not shorter than 20s",
		with("drain: {completionReserve: 30m}"):                                              "quiesce.yaml:1: drain.completionReserve: must be shorter than drain.maxDuration: 30m0s is not shorter than 30m0s",
		with("drain: {nodeJoinTimeout: 1h}"):                                                 "quiesce.yaml:1: drain.nodeJoinTimeout: must be shorter than drain.maxDuration: 1h0m0s is not shorter than 30m0s",
		with("drain: {volumeDetachTimeout: 1h}"):                                             "quiesce.yaml:1: drain.volumeDetachTimeout: must be shorter than drain.maxDuration: 1h0m0s is not shorter than 30m0s",
		with("drain: {maxConcurrentEvictions: 1.5}"):                                         "quiesce.yaml:1: drain.maxConcurrentEvictions: must be a whole number: 1.5",
		with("drain: {maxConcurrentEvictions: 99999999999999999}"):                           "quiesce.yaml:1: drain.maxConcurrentEvictions: must be from 1 to 1000: 99999999999999999",
		with("drain: {maxDuration: forever}"):                                                "quiesce.yaml:1: drain.maxDuration: must be a duration such as 30s: forever",
		with("drain: {maxDuration: true}"):                                                   "quiesce.yaml:1: drain.maxDuration: must be a duration such as 30s: true",
		with("phases: {}"):                                                                   "quiesce.yaml:1: phases: must be a list",
		with("phases: []"):                                                                   "quiesce.yaml:1: phases: must not be empty",
		with("phases: [workloads]"):                                                          "quiesce.yaml:1: phases[0]: must be a mapping",
		with("phases: [{match: {namespaces: [a]}}]"):                                         "quiesce.yaml:1: phases[0].name: required",
		with("phases: [{name: a, match: {labelSelector: ' '}}]"):                             "quiesce.yaml:1: phases[0].match.labelSelector: selects every pod:  ",
		with("phases: [{name: a, match: {}}]"):                                               "quiesce.yaml:1: phases[0].match: must have a condition: labelSelector, namespaces or priorityClassNames",
		with("phases: [{name: a, match: {ownerKinds: [Job], namespaces: [a]}}]"):             "quiesce.yaml:1: phases[0].match.ownerKinds: unknown key",
		with("phases: [{name: a, match: {namespaces: ['[']}}]"):                              "quiesce.yaml:1: phases[0].match.namespaces[0]: not a name or a glob: [",
		with("phases: [{name: workloads, match: {namespaces: [a]}}]"):                        "quiesce.yaml:1: phases[0].match: not allowed in phase workloads, which takes the pods that no other phase matches",
		with("phases: [{name: workloads, escort: {postgres: {}}}]"):                          "quiesce.yaml:1: phases[0].escort: not allowed in phase workloads, which takes the pods that no other phase matches: give the escort a phase of its own",
		with("phases: [{name: workloads, settle: -1s}]"):                                     "quiesce.yaml:1: phases[0].settle: must not be negative: -1s",
		with("phases: [{name: workloads, escort: {}}]"):                                      "quiesce.yaml:1: phases[0].escort: must be {pgbouncer: ...} or {postgres: ...}",
		escort("strategy: pause"):                                                            "quiesce.yaml:1: phases[0].escort.pgbouncer.strategy: must be auto, evict or surge: pause",
		escort("timeout: 0s"):                                                                "quiesce.yaml:1: phases[0].escort.pgbouncer.timeout: must be longer than zero",
		escort("connectVia: exec"):                                                           "quiesce.yaml:1: phases[0].escort.pgbouncer.connectVia: must be podIP or portForward: exec",
		escort("port: 65536"):                                                                "quiesce.yaml:1: phases[0].escort.pgbouncer.port: must be from 1 to 65535: 65536",
		escort("tls: yes"):                                                                   "quiesce.yaml:1: phases[0].escort.pgbouncer.tls: must be disable, prefer, require or verify-full: yes",
		escort("tls: verify-full, serverName: a"):                                            "quiesce.yaml:1: phases[0].escort.pgbouncer.caBundle: required",
		escort("tls: verify-full, serverName: a, caBundle: x"):                               "quiesce.yaml:1: phases[0].escort.pgbouncer.caBundle: no PEM certificate",
		escort("tls: require, serverName: a"):                                                "quiesce.yaml:1: phases[0].escort.pgbouncer.tls: must be verify-full with serverName or caBundle: require verifies nothing",
		escort("secretArn: a"):                                                               "quiesce.yaml:1: phases[0].escort.pgbouncer.secretArn: not the whole ARN of a secret, with the six characters at its end: a",
		escort("secretArn: 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:s-a1b2c3'"): "quiesce.yaml:1: phases[0].match: namespaces: required with secretArn: only poolers in these namespaces get the credentials",
		escort("secretArn: 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:*'"):        "quiesce.yaml:1: phases[0].escort.pgbouncer.secretArn: not the whole ARN of a secret, with the six characters at its end: arn:aws:secretsmanager:eu-west-1:111122223333:secret:*",
		escort("secretRef: {name: s}"):                                                       "quiesce.yaml:1: phases[0].escort.pgbouncer.secretRef.namespace: required",
		escort("password: s3cret"):                                                           "quiesce.yaml:1: phases[0].escort.pgbouncer.password: unknown key",
		escort("secretRef: {namespace: n, name: s}, secretArn: 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:s-a1b2c3'"): "quiesce.yaml:1: phases[0].escort.pgbouncer.secretArn: not allowed with secretRef: the credentials are in one place",

		escort("secretArn: 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:pgbouncer-admin'"): "quiesce.yaml:1: phases[0].escort.pgbouncer.secretArn: " +
			"not the whole ARN of a secret, with the six characters at its end: arn:aws:secretsmanager:eu-west-1:111122223333:secret:pgbouncer-admin",
	} {
		require.Equal(t, strings.Split(want, "\n"), errorsOf(t, text), text)
	}
}

func TestLoad_MissingFile_ReportedWithEnvironmentErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	_, err := config.Load(environment(map[string]string{"QUIESCE_CONFIG": path, "QUIESCE_DLQ_URL": "dlq"}))
	require.Equal(t, []string{
		"QUIESCE_CONFIG: open " + path + ": no such file or directory",
		`QUIESCE_DLQ_URL: not a URL with scheme https or http: "dlq"`,
	}, lines(t, err))
}

func TestErrors_JSONLogger_WritesAList(t *testing.T) {
	_, err := config.Parse([]byte("{mode: drain, drain: {completionReserve: -30s}}"), environment(map[string]string{"CLUSTER_NAME": "a b"}))
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Error("invalid configuration", "errors", err)

	require.Equal(t, 1, strings.Count(out.String(), "\n"))
	var line struct{ Errors config.Errors }
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	require.Equal(t, config.Errors{
		{Key: "CLUSTER_NAME", Reason: `not a cluster name: "a b"`},
		{Line: 1, Key: "cluster", Reason: "required, because CLUSTER_NAME is not set"},
		{Line: 1, Key: "autoScalingGroups", Reason: "required"},
		{Line: 1, Key: "drain.completionReserve", Reason: "must not be negative: -30s"},
	}, line.Errors)
}
