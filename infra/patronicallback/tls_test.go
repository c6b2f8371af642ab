package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	parts "quiesce/test/parts/pgbouncer"
)

// encrypted is a fixture whose poolers refuse clients without TLS, and a file with the certificates that signed theirs.
func encrypted(t *testing.T) (f *fixture, ca string) {
	t.Helper()
	o := parts.Options{TLS: "require"}
	f = newFixture(t, parts.Start(t, parts.Older, o), parts.Start(t, parts.Newer, o))
	ca = filepath.Join(t.TempDir(), "ca.crt")
	require.NoError(t, os.WriteFile(ca, append(f.poolers[0].CA, f.poolers[1].CA...), 0o600))
	return f, ca
}

func TestCallbacks_EncryptedConsoles_PausedAndResumed(t *testing.T) {
	t.Parallel()
	f, ca := encrypted(t)
	for name, flags := range map[string]string{
		"by default": "-tls prefer", "required": "-tls require", "verified": "-tls verify-full -server-name " + parts.ServerName + " -ca " + ca,
	} {
		f.say("restarting", "primary")
		require.Zero(t, f.run(beforeStop, flags), name)
		f.requirePaused()
		f.say("running", "primary")
		f.requireAsBefore()
	}
}

// A pooler that does not prove who it is gets no password, and is left alone. PostgreSQL stops all the same.
func TestBeforeStop_ConsoleNotVerified_LeftAlone(t *testing.T) {
	t.Parallel()
	f, ca := encrypted(t)
	for flags, why := range map[string]string{
		"-tls disable": "TLS",
		"-tls verify-full -server-name another.test -ca " + ca: "another.test",
	} {
		require.Zero(t, f.run(beforeStop, flags), flags)
		f.requireAsBefore()
		require.Contains(t, f.read(f.output), why)
		require.NotContains(t, f.read(f.output), "paused the pooler", flags)
	}
}
