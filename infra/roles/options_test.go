package main

import (
	"bytes"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReadOptions_AnyOrder_SameOptions(t *testing.T) {
	for _, args := range [][]string{{"up", "-f", "x", "-dry-run"}, {"-f", "x", "up", "-dry-run"}, {"--dry-run", "--f=x", "up"}} {
		o, err := readOptions(args, nil)
		require.NoError(t, err)
		require.Equal(t, options{action: up, file: "x", dryRun: true, wait: defaultWait, timeout: defaultTimeout}, o)
	}
	o, err := readOptions([]string{"down", "-reassign-to", "postgres", "-wait", "1s", "-timeout", "2s"}, nil)
	require.NoError(t, err)
	require.Equal(t, options{action: down, reassignTo: "postgres", wait: time.Second, timeout: 2 * time.Second}, o)
}

func TestRun_Mistakes_NamedWithNextStep(t *testing.T) {
	for want, args := range map[string][]string{
		"say up, down or verify": {}, "say up, down": {"sideways"}, "unknown argument down": {"up", "down"}, "not defined: -x": {"up", "-x"},
		"more than zero": {"up", "-wait", "0s"}, "read the roles: open /none": {"up", "-f", "/none"},
	} {
		var out, errs bytes.Buffer
		require.Equal(t, trouble, run(t.Context(), args, func(string) string { return "" }, &out, &errs))
		require.Contains(t, errs.String(), want)
		require.Empty(t, out.String())
	}
	var out, errs bytes.Buffer
	require.Equal(t, same, run(t.Context(), []string{"-help"}, nil, &out, &errs))
	require.Contains(t, errs.String(), "-dry-run")
}

func variables(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestTarget_Variables_DocumentsBeforeLibpq(t *testing.T) {
	require.Equal(t, target{hosts: "localhost", user: "postgres", database: "postgres", sslMode: "prefer"}, targetFrom(variables()))
	require.Equal(t, target{hosts: "a,b", port: "5433", user: "u", password: "p", database: "d", sslMode: "verify-full", sslRootCA: "/ca"}, targetFrom(variables(
		"POSTGRES_HOSTNAME", "a,b", "PGHOST", "c", "PGPORT", "5433", "POSTGRES_USERNAME", "u", "PGPASSWORD", "p", "PGDATABASE", "d", "PGSSLROOTCERT", "/ca")))
	require.Empty(t, targetFrom(variables("POSTGRES_PORT", "tcp://10.0.0.1:5432")).port, "the link of a Service")
	require.Equal(t, "require", targetFrom(variables("PGSSLMODE", "require", "PGSSLROOTCERT", "/ca")).sslMode)
}

func TestTargetConfig_SeveralHosts_EachIsTried(t *testing.T) {
	config, err := targetFrom(variables("POSTGRES_HOSTNAME", "a,b", "POSTGRES_PORT", "5433", "PGSSLMODE", "disable", "POSTGRES_PASSWORD", `it's \`)).config(`o'd\d`)
	require.NoError(t, err)
	require.Equal(t, "a", config.Host)
	require.Len(t, config.Fallbacks, 1)
	require.Equal(t, "b", config.Fallbacks[0].Host)
	require.Equal(t, `it's \`, config.Password)
	require.Equal(t, `o'd\d`, config.Database)
	require.NotNil(t, config.ValidateConnect)
	require.Equal(t, "!password", config.RequireAuth)
}

// Only a verified server may ask for the password itself.
func TestTargetConfig_Certificates_Verified(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	example := httptest.NewTLSServer(nil)
	example.Close()
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: example.Certificate().Raw})
	require.NoError(t, os.WriteFile(ca, block, 0o600))
	config, err := targetFrom(variables("POSTGRES_HOSTNAME", "db.example", "PGSSLROOTCERT", ca)).config("app")
	require.NoError(t, err)
	require.Equal(t, "db.example", config.TLSConfig.ServerName)
	require.False(t, config.TLSConfig.InsecureSkipVerify)
	require.Empty(t, config.Fallbacks, "never without TLS")
	require.Empty(t, config.RequireAuth)
}
