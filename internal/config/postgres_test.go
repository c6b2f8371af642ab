package config_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
)

func withPhases(phases string) string { return least[:len(least)-1] + ", phases: [" + phases + "]}" }

func TestPostgres_WithoutSettings_HasItsDefaults(t *testing.T) {
	for _, escort := range []string{"{postgres: {}}", "{postgres: }"} {
		c := parse(t, withPhases("{name: databases, escort: "+escort+"}"))
		require.Equal(t, &config.Postgres{
			Strategy: config.StrategySwitchover, MaxLag: 16 << 20, PauseTimeout: 30 * time.Second, Poolers: config.PoolersAuto,
			ScopeLabel: "cluster-name", Console: config.Console{ConnectVia: config.ViaPortForward, TLS: config.TLSPrefer},
		}, c.Phases[0].Postgres)
		require.Nil(t, c.Phases[0].PGBouncer)
		require.True(t, c.Phases[0].HasEscort())
	}
}

func TestPostgres_NotWritten_IsOff(t *testing.T) {
	for _, phase := range parse(t, least).Phases {
		require.Nil(t, phase.Postgres)
	}
}

func TestPostgres_Settings_AreRead(t *testing.T) {
	c := parse(t, withPhases("{name: databases, escort: {postgres: {strategy: operator, maxLag: 1Mi, pauseTimeout: 10s, poolers: none, "+
		"scopeLabel: example.com/scope, port: 6432, tls: disable, secretRef: {namespace: db, name: admin}}}}"))
	login := &config.SecretRef{Namespace: "db", Name: "admin", UserKey: "username", PasswordKey: "password"}
	require.Equal(t, &config.Postgres{
		Strategy: config.StrategyOperator, MaxLag: 1 << 20, PauseTimeout: 10 * time.Second, Poolers: config.PoolersNone,
		ScopeLabel: "example.com/scope", Console: config.Console{ConnectVia: config.ViaPortForward, Port: 6432, TLS: config.TLSDisable, Secret: login},
	}, c.Phases[0].Postgres)
	c = parse(t, withPhases("{name: databases, escort: {postgres: {connectVia: podIP, restSecretRef: "+
		"{namespace: db, name: demo, userKey: restapi-username, passwordKey: restapi-password}}}}"))
	require.Equal(t, &config.SecretRef{Namespace: "db", Name: "demo", UserKey: "restapi-username", PasswordKey: "restapi-password"},
		c.Phases[0].Postgres.RESTSecret)
	require.Nil(t, c.Phases[0].Postgres.Secret, "it is not for consoles")
	c = parse(t, withPhases("{name: databases, escort: {postgres: {maxLag: 1000}}}"))
	require.Equal(t, int64(1000), c.Phases[0].Postgres.MaxLag)
	c = parse(t, withPhases("{name: databases, escort: {postgres: {maxLag: 1Gi, pauseTimeout: 90s}}}"))
	require.Equal(t, int64(1<<30), c.Phases[0].Postgres.MaxLag, "the most")
	require.Equal(t, 90*time.Second, c.Phases[0].Postgres.PauseTimeout, "the longest")
}

// The poolers in front of primaries are usually those of the phase of poolers.
func TestPostgres_WithoutCredentials_HasThoseOfThePoolers(t *testing.T) {
	const arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:s-a1b2c3"
	poolers := "{name: poolers, match: {namespaces: [db]}, escort: {pgbouncer: {secretArn: '" + arn + "', port: 5432, tls: require}}}"
	c := parse(t, withPhases("{name: databases, escort: {postgres: {}}}, "+poolers))
	require.Equal(t, config.Console{
		ConnectVia: config.ViaPortForward, SecretARN: arn, Namespaces: config.Globs{"db"}, Port: 5432, TLS: config.TLSRequire,
	}, c.Phases[0].Postgres.Console)
	c = parse(t, withPhases(poolers+", {name: databases, escort: {postgres: {}}}"))
	require.Equal(t, arn, c.Phases[1].Postgres.SecretARN, "also when the poolers come first")
	c = parse(t, withPhases("{name: databases, escort: {postgres: {connectVia: podIP, secretRef: {namespace: a, name: b}}}}, "+poolers))
	require.Equal(t, "a", c.Phases[0].Postgres.Secret.Namespace)
	require.Empty(t, c.Phases[0].Postgres.SecretARN)
	require.Equal(t, config.ViaPodIP, c.Phases[0].Postgres.ConnectVia)
}

func TestPostgres_ImpossibleSettings_AreErrors(t *testing.T) {
	for settings, want := range map[string]string{
		"strategy: pause":                "strategy: must be switchover, operator or plain: pause",
		"maxLag: 0":                      "maxLag: must be a number of bytes such as 16Mi, at most 1Gi: 0",
		"maxLag: 2Gi":                    "maxLag: must be a number of bytes such as 16Mi, at most 1Gi: 2Gi",
		"maxLag: many":                   "maxLag: must be a number of bytes such as 16Mi, at most 1Gi: many",
		"maxLag: 1.5":                    "maxLag: must be a number of bytes such as 16Mi: 1.5",
		"pauseTimeout: 91s":              "pauseTimeout: must not be longer than 90s: clients wait no longer than pgbouncer's query_wait_timeout",
		"pauseTimeout: 0s":               "pauseTimeout: must be longer than zero",
		"tls: require":                   "tls: needs secretRef or secretArn: without a login of its own, this escort has the console's settings",
		"port: 6543":                     "port: needs secretRef or secretArn: without a login of its own, this escort has the console's settings",
		"poolers: all":                   "poolers: must be auto or none: all",
		"scopeLabel: 'a b'":              "scopeLabel: not the key of a label: a b",
		"timeout: 1m":                    "timeout: unknown key",
		"tls: verify-full":               "serverName: required",
		"connectVia: internet":           "connectVia: must be podIP or portForward: internet",
		"restSecretRef: {namespace: db}": "restSecretRef.name: required",
		"restSecretRef: {namespace: db, name: demo}":                          "restSecretRef: needs connectVia: podIP",
		"connectVia: portForward, restSecretRef: {namespace: db, name: demo}": "restSecretRef: needs connectVia: podIP",
		"connectVia: podIP, restSecretRef: {namespace: db, name: d, user: u}": "restSecretRef.user: unknown key",
	} {
		_, err := config.Parse([]byte(withPhases("{name: databases, escort: {postgres: {"+settings+"}}}")), func(string) string { return "" })
		require.ErrorContains(t, err, "phases[0].escort.postgres."+want)
	}
	for _, phase := range []string{
		"{name: databases, escort: {postgres: {}, pgbouncer: {}}}", "{name: databases, escort: {mysql: {}}}", "{name: databases, escort: {}}",
	} {
		_, err := config.Parse([]byte(withPhases(phase)), func(string) string { return "" })
		require.ErrorContains(t, err, "escort: must be {pgbouncer: ...} or {postgres: ...}")
	}
}
