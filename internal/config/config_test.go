package config_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/labels"

	"quiesce/internal/config"
)

// sample is the documented file. It sets every default.
const sample = `
cluster: prod                           # CLUSTER_NAME wins
autoScalingGroups: ["workers-a", "batch-*"] # names or globs; the stack makes hooks for exact names only
mode: drain                             # shadow: plan and report on real events, change nothing, CONTINUE at once
lifecycle: {hook: quiesce, onFailure: CONTINUE}
drain: {maxDuration: 30m, completionReserve: 30s, maxConcurrentEvictions: 16, nodeJoinTimeout: 15s, volumeDetachTimeout: 60s,
        onDeadline: force, onRebalanceRecommendation: false, onSpotInterruption: false}
phases:
  - name: poolers
    match: {labelSelector: "app.kubernetes.io/name=pgbouncer", namespaces: [db]}
    escort: {pgbouncer: {}}
    settle: 5s
    timeout: 5m
  - name: workloads
  - name: critical
    match: {priorityClassNames: [system-cluster-critical, system-node-critical]}
allowManualDrain: false
`

// least is the shortest file that is complete.
const least = "{cluster: prod, autoScalingGroups: [workers-a], mode: drain}"

// environment returns a getenv that has only these variables.
func environment(variables map[string]string) func(string) string {
	return func(key string) string { return variables[key] }
}

var bare = environment(nil)

func parse(t *testing.T, text string) config.Config {
	c, err := config.Parse([]byte(text), bare)
	require.NoError(t, err)
	return c
}

func selector(t *testing.T, text string) labels.Selector {
	s, err := labels.Parse(text)
	require.NoError(t, err)
	return s
}

func TestParse_DocumentedFile_EqualsDefaults(t *testing.T) {
	got, defaults := parse(t, sample), parse(t, least)

	require.Equal(t, config.Config{
		Cluster:   "prod",
		Groups:    config.Groups{Names: config.Globs{"workers-a", "batch-*"}},
		Mode:      config.ModeDrain,
		Lifecycle: config.Lifecycle{Hook: "quiesce", OnFailure: config.Continue},
		Drain: config.Drain{
			MaxDuration: 30 * time.Minute, CompletionReserve: 30 * time.Second, MaxConcurrentEvictions: 16,
			NodeJoinTimeout: 15 * time.Second, VolumeDetachTimeout: time.Minute, OnDeadline: config.Force,
		},
		Phases: got.Phases,
		Stack:  defaults.Stack,
	}, got)
	require.Equal(t, []string{"poolers", "workloads", "critical"}, names(got))

	require.Equal(t, got.Mode, defaults.Mode)
	require.Equal(t, got.Lifecycle, defaults.Lifecycle)
	require.Equal(t, got.Drain, defaults.Drain)
	require.Equal(t, names(got), names(defaults))
	require.Equal(t, got.Phases[1:], defaults.Phases[1:])
	require.Equal(t, got.Phases[0].PGBouncer, defaults.Phases[0].PGBouncer)
	require.Equal(t, "app.kubernetes.io/name=pgbouncer", got.Phases[0].Match.Selector.String())
	require.True(t, defaults.Phases[0].Match.Empty(), "by default, the escort recognizes its poolers")
}

func names(c config.Config) []string {
	var names []string
	for _, phase := range c.Phases {
		names = append(names, phase.Name)
	}
	return names
}

func TestParse_EveryKey_IsRead(t *testing.T) {
	got := parse(t, `
cluster: staging
autoScalingGroups: ["workers-?"]
mode: shadow
lifecycle: {hook: drain/me, onFailure: ABANDON}
drain:
  maxDuration: 2h
  completionReserve: 0s
  maxConcurrentEvictions: 1
  nodeJoinTimeout: 0s
  volumeDetachTimeout: 0s
  onDeadline: keep
  onRebalanceRecommendation: true
  onSpotInterruption: true
phases:
  - name: poolers
    match: {labelSelector: "app in (a, b),!c", namespaces: [db, "team-*"], priorityClassNames: [high]}
    settle: 1s
    timeout: 1m30s
    escort:
      pgbouncer:
        strategy: surge
        timeout: 20s
        connectVia: portForward
        port: 6432
        secretRef: {namespace: db, name: pgbouncer-admin, userKey: u, passwordKey: p}
        tls: require
allowManualDrain: true
`)

	poolers := got.Phases[0]
	require.Equal(t, config.Config{
		Cluster:   "staging",
		Groups:    config.Groups{Names: config.Globs{"workers-?"}},
		Mode:      config.ModeShadow,
		Lifecycle: config.Lifecycle{Hook: "drain/me", OnFailure: config.Abandon},
		Drain: config.Drain{
			MaxDuration: 2 * time.Hour, MaxConcurrentEvictions: 1, OnDeadline: config.Keep, OnRebalanceRecommendation: true,
			OnSpotInterruption: true,
		},
		Phases: []config.Phase{{
			Name: "poolers",
			Match: config.Match{
				Selector:   selector(t, "app in (a, b),!c"),
				Namespaces: config.Globs{"db", "team-*"}, PriorityClasses: []string{"high"},
			},
			PGBouncer: &config.PGBouncer{
				Strategy: config.StrategySurge, Timeout: 20 * time.Second, Console: config.Console{
					ConnectVia: config.ViaPortForward, Port: 6432, TLS: config.TLSRequire,
					Secret: &config.SecretRef{Namespace: "db", Name: "pgbouncer-admin", UserKey: "u", PasswordKey: "p"},
				},
			},
			Settle: time.Second, Timeout: 90 * time.Second,
		}, {Name: config.Workloads, Timeout: 5 * time.Minute}},
		AllowManualDrain: true,
		Stack:            got.Stack,
	}, got)
	require.Equal(t, "db", poolers.PGBouncer.Secret.Namespace)
}

func TestEscort_NoSettings_HasDefaults(t *testing.T) {
	for _, escort := range []string{"{pgbouncer: {}}", "{pgbouncer: }", "{pgbouncer: {strategy: }}"} {
		c := parse(t, least[:len(least)-1]+", phases: [{name: poolers, escort: "+escort+"}]}")
		require.Equal(t, &config.PGBouncer{
			Strategy: config.StrategyAuto, Timeout: time.Minute, Console: config.Console{ConnectVia: config.ViaPortForward, TLS: config.TLSPrefer},
		}, c.Phases[0].PGBouncer, escort)
	}
}

// A function outside a VPC has no route to pods.
func TestConnectVia_NotSet_DependsOnTheVPC(t *testing.T) {
	const vpc = ", stack: {vpc: {id: vpc-0123abcd, subnets: [subnet-0123abcd], clusterSecurityGroup: sg-0123abcd}}}"
	const phases = ", phases: [{name: a, escort: {pgbouncer: {}}}, {name: b, escort: {pgbouncer: {connectVia: %s}}}, {name: c, match: {namespaces: [c]}}]"
	file := least[:len(least)-1]
	for text, want := range map[string][]config.ConnectVia{
		file + "}":                   {config.ViaPortForward},
		file + ", stack: {name: a}}": {config.ViaPortForward},
		file + vpc:                   {config.ViaPodIP},
		file + fmt.Sprintf(phases, "podIP") + "}":                         {config.ViaPortForward, config.ViaPodIP},
		file + fmt.Sprintf(phases, "podIP") + vpc:                         {config.ViaPodIP, config.ViaPodIP},
		file + fmt.Sprintf(phases, "portForward") + vpc:                   {config.ViaPodIP, config.ViaPortForward},
		file + fmt.Sprintf(phases, "portForward") + ", stack: {name: a}}": {config.ViaPortForward, config.ViaPortForward},
	} {
		var got []config.ConnectVia
		for _, phase := range parse(t, text).Phases {
			if phase.PGBouncer != nil {
				got = append(got, phase.PGBouncer.ConnectVia)
			}
		}
		require.Equal(t, want, got, text)
	}
	require.Equal(t, []string{
		"quiesce.yaml:1: phases[1].escort.pgbouncer.connectVia: podIP needs stack.vpc: without it, the function has no route to pods. " +
			"Add stack.vpc, or use portForward",
	}, errorsOf(t, file+fmt.Sprintf(phases, "podIP")+", stack: {name: a}}"))
}

// Names become parts of paths, metrics, ARNs and descriptions.
func TestParse_NameThatAWSOrKubernetesRefuses_IsAnError(t *testing.T) {
	file := least[:len(least)-1]
	escort := func(settings string) string {
		return file + ", phases: [{name: p, escort: {pgbouncer: {" + settings + "}}}]}"
	}
	long := strings.Repeat("a", 256)
	for text, want := range map[string]string{
		file + `, phases: [{name: "a/b", match: {namespaces: [a]}}]}`:         "phases[0].name: not a phase name of at most 63 letters, digits, spaces and _.-: a/b",
		file + `, phases: [{name: "a'; x", match: {namespaces: [a]}}]}`:       "phases[0].name: not a phase name",
		file + `, phases: [{name: "größe", match: {namespaces: [a]}}]}`:       "phases[0].name: not a phase name",
		file + `, phases: [{name: "a\nb", match: {namespaces: [a]}}]}`:        "phases[0].name: not a phase name",
		file + `, phases: [{name: "a\n", match: {namespaces: [a]}}]}`:         "phases[0].name: not a phase name",
		file + `, phases: [{name: ` + long + `, match: {namespaces: [a]}}]}`:  "phases[0].name: not a phase name",
		file + `, phases: [{name: a, match: {namespaces: ["a/b"]}}]}`:         "phases[0].match.namespaces[0]: not a namespace",
		file + `, phases: [{name: a, match: {priorityClassNames: ["A b"]}}]}`: "phases[0].match.priorityClassNames[0]: not a priority class name: A b",
		`{cluster: prod, mode: drain, autoScalingGroups: ["a:b"]}`:            `autoScalingGroups[0]: not a group name, nor a glob of group names: "a:b"`,
		`{cluster: prod, mode: drain, autoScalingGroups: ["a\tb"]}`:           "autoScalingGroups[0]: not a group name",
		`{cluster: prod, mode: drain, autoScalingGroups: [` + long + `]}`:     "autoScalingGroups[0]: not a group name",
		file + `, lifecycle: {hook: ` + long + `}}`:                           "lifecycle.hook: not a hook name",
		file + `, drain: {maxDuration: 49h}}`:                                 "drain.maxDuration: must not be longer than 48h: 49h",
		file + `, phases: [{name: workloads, settle: 1000000h}]}`:             "phases[0].settle: must not be longer than 48h: 1000000h",
		escort("timeout: 2562047h"):                                           "escort.pgbouncer.timeout: must not be longer than 48h",
		escort("secretRef: {namespace: '../kube-system', name: s}"):           "secretRef.namespace: not a namespace: ../kube-system",
		escort("secretRef: {namespace: db, name: 's/../../x'}"):               "secretRef.name: not a Secret name: s/../../x",
		escort("secretRef: {namespace: db, name: s, userKey: 'a b'}"):         "secretRef.userKey: not a key of a Secret: a b",
		escort("secretRef: {namespace: db, name: s, passwordKey: '/'}"):       "secretRef.passwordKey: not a key of a Secret: /",
	} {
		got := errorsOf(t, text)
		require.Len(t, got, 1, text)
		require.Contains(t, got[0], want)
	}
	for _, name := range []string{"a", "Poolers of team-1_b.c", strings.Repeat("a", 63)} {
		require.Equal(t, name, parse(t, file+", phases: [{name: "+name+", match: {namespaces: ['team-[a-c]?*']}}]}").Phases[0].Name)
	}
}

func TestSecretRef_KeysNotSet_UsesBasicAuthKeys(t *testing.T) {
	c := parse(t, least[:len(least)-1]+", phases: [{name: poolers, escort: {pgbouncer: {secretRef: {namespace: db, name: s}}}}]}")
	require.Equal(t, &config.SecretRef{Namespace: "db", Name: "s", UserKey: "username", PasswordKey: "password"},
		c.Phases[0].PGBouncer.Secret)
}

func TestSecretARN_Configured_IsRead(t *testing.T) {
	for _, name := range []string{"pgbouncer-admin-a1b2c3", "rds!cluster-0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f-AbCdEf"} {
		arn := "arn:aws:secretsmanager:eu-west-1:111122223333:secret:" + name
		c := parse(t, least[:len(least)-1]+", phases: [{name: poolers, match: {namespaces: [db]}, escort: {pgbouncer: {secretArn: '"+arn+"'}}}]}")
		require.Equal(t, arn, c.Phases[0].PGBouncer.SecretARN)
		require.Nil(t, c.Phases[0].PGBouncer.Secret)
	}
}

func TestPhases_UnmatchedPods_BeforeCriticalOrLast(t *testing.T) {
	for given, want := range map[string][]string{
		"a, b":                   {"a", "b", "workloads"},
		"a, critical, b":         {"a", "workloads", "critical", "b"},
		"critical, a":            {"workloads", "critical", "a"},
		"workloads, a, critical": {"workloads", "a", "critical"},
	} {
		text := "cluster: prod\nautoScalingGroups: [workers-a]\nmode: drain\nphases:\n"
		for _, name := range splitList(given) {
			text += "- name: " + name + "\n"
			if name != "workloads" {
				text += "  match: {namespaces: [" + name + "]}\n"
			}
		}
		require.Equal(t, want, names(parse(t, text)), given)
	}
}

func TestParse_KeyWithoutValue_HasDefault(t *testing.T) {
	got := parse(t, least[:len(least)-1]+", drain: , lifecycle: {hook: ~}, phases: null}")
	require.Equal(t, parse(t, least), got)
}

func TestParse_YAMLAlias_IsResolved(t *testing.T) {
	got := parse(t, `
cluster: &name prod
autoScalingGroups: [*name]
mode: drain
drain: {maxDuration: &time 40s, nodeJoinTimeout: 5s, volumeDetachTimeout: 5s}
phases: [{name: a, match: &match {namespaces: [a]}, timeout: *time}, {name: b, match: *match}]
`)
	require.True(t, got.Groups.Match("prod", nil))
	require.Equal(t, 40*time.Second, got.Phases[0].Timeout)
	require.Equal(t, got.Phases[0].Match, got.Phases[1].Match)
}

// The CAs are in the file: a certificate is no secret.
func TestTLS_VerifyFull_HasServerNameAndCAs(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	bundle, err := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	require.NoError(t, err)
	got := parse(t, fmt.Sprintf(`
cluster: prod
autoScalingGroups: [a]
mode: drain
phases: [{name: poolers, escort: {pgbouncer: {tls: verify-full, serverName: example.com, caBundle: %s}}}]
`, bundle)).Phases[0].PGBouncer
	require.Equal(t, config.TLSVerifyFull, got.TLS)
	_, err = server.Certificate().Verify(x509.VerifyOptions{DNSName: got.ServerName, Roots: got.RootCAs})
	require.NoError(t, err)
}

func TestOwnsGroup_NameOrGlob_Matches(t *testing.T) {
	c := parse(t, sample)
	for name, owned := range map[string]bool{
		"workers-a": true, "batch-": true, "batch-7": true,
		"workers-ab": false, "workers": false, "batch": false, "batch-a/b": false, "": false, "batch-*": true,
	} {
		require.Equal(t, owned, c.Groups.Match(name, nil), name)
	}
	require.Equal(t, []string{"workers-a"}, c.Groups.Names.Exact())
}

func TestMatch_AllConditionsMet_Matches(t *testing.T) {
	match := config.Match{
		Selector: selector(t, "app=x"), Namespaces: config.Globs{"db", "team-*"}, PriorityClasses: []string{"high"},
	}
	app := map[string]string{"app": "x", "tier": "y"}

	require.True(t, match.Matches("team-1", "high", app))
	require.False(t, match.Matches("other", "high", app))
	require.False(t, match.Matches("db", "low", app))
	require.False(t, match.Matches("db", "high", map[string]string{"app": "z"}))
	require.True(t, config.Match{Namespaces: config.Globs{"db"}}.Matches("db", "", nil))
	require.False(t, config.Match{}.Matches("db", "high", app), "a match without conditions matches no pod")
}

func TestLoad_PathInEnvironment_ReadsThatFile(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "quiesce.yaml"), []byte(sample), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "other.yaml"), []byte(least), 0o600))

	c, err := config.Load(environment(map[string]string{"LAMBDA_TASK_ROOT": dir}))
	require.NoError(t, err)
	require.True(t, c.Groups.Match("batch-1", nil))

	c, err = config.Load(environment(map[string]string{
		"LAMBDA_TASK_ROOT": dir, "QUIESCE_CONFIG": filepath.Join(dir, "other.yaml"), "CLUSTER_NAME": "staging",
	}))
	require.NoError(t, err)
	require.False(t, c.Groups.Match("batch-1", nil))
	require.Equal(t, "staging", c.Cluster)
}

// The text in the environment is the configuration of a stack that was made from a release: its zip has no file.
func TestLoad_ConfigText_ReadsNoFile(t *testing.T) {
	text := map[string]string{"QUIESCE_CONFIG_TEXT": least, "LAMBDA_TASK_ROOT": t.TempDir()}
	c, err := config.Load(environment(text))
	require.NoError(t, err)
	require.Equal(t, parse(t, least), c)

	text["CLUSTER_NAME"] = "staging"
	c, err = config.Load(environment(text))
	require.NoError(t, err)
	require.Equal(t, "staging", c.Cluster, "the rest of the environment counts too")

	text["QUIESCE_CONFIG_TEXT"] = "cluster: prod\nautoScalingGroups: [workers-a]\nmode: stop"
	_, err = config.Load(environment(text))
	require.ErrorContains(t, err, "quiesce.yaml:3: mode: must be shadow or drain: stop")
}

// No mode is a safe default: shadow would drain nothing, and drain would surprise its operator.
func TestMode_Missing_IsRequired(t *testing.T) {
	const file = "cluster: prod\nautoScalingGroups: [workers-a]\n"
	require.Equal(t, []string{"quiesce.yaml:1: mode: required: shadow or drain"}, errorsOf(t, file))
	require.Equal(t, []string{"quiesce.yaml:3: mode: required: shadow or drain"}, errorsOf(t, file+"mode:\n"))
	for text, mode := range map[string]config.Mode{"shadow": config.ModeShadow, "drain": config.ModeDrain} {
		require.Equal(t, mode, parse(t, file+"mode: "+text).Mode)
	}
}

// Poolers of a login were not found, or did not get it, where only the phase for databases had one.
func TestPoolerNamespaces_LoginOfDatabases_CountsToo(t *testing.T) {
	c := parse(t, `cluster: c
autoScalingGroups: [g]
mode: drain
phases:
  - {name: databases, match: {namespaces: [db]}, escort: {postgres: {secretRef: {namespace: pool, name: mover}}}}
  - {name: poolers, match: {namespaces: [web, 'team-*']}, escort: {pgbouncer: {}}}
  - {name: workloads}
`)
	require.Equal(t, []string{"pool", "web"}, c.PoolerNamespaces())
}

func TestSecretARN_OfDatabases_SentToPoolersOfOtherPhases(t *testing.T) {
	c := parse(t, `cluster: c
autoScalingGroups: [g]
mode: drain
phases:
  - {name: databases, match: {namespaces: [db]}, escort: {postgres: {secretArn: 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:mover-AbCdEf'}}}
  - {name: poolers, match: {namespaces: ['team-*']}, escort: {pgbouncer: {}}}
  - {name: workloads}
`)
	require.Equal(t, config.Globs{"db", "team-*"}, c.Phases[0].Postgres.Namespaces)
	require.Equal(t, config.Globs{"db"}, c.Phases[0].Match.Namespaces, "what it matches is the same")
}
