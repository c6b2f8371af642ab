package pgbouncer

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	parts "quiesce/test/parts/pgbouncer"
	"quiesce/test/parts/postgres"
)

var (
	// app is neither in admin_users nor in stats_users.
	app   = parts.App
	wrong = parts.User{Name: parts.Admin.Name, Password: "not the admin's password"}
)

// requireOpenFails requires that Open fails with an error that has no password in its text, and returns the error.
func requireOpenFails(t *testing.T, target Target) error {
	t.Helper()
	c, err := Open(t.Context(), target)
	if err == nil {
		c.Close()
	}
	require.Error(t, err)
	for _, verb := range []string{"%v", "%+v", "%#v", "%q"} {
		for _, login := range []parts.User{admin, stats, wrong} {
			require.NotContains(t, fmt.Sprintf(verb, err), login.Password)
		}
	}
	return err
}

func TestTarget_Printed_HidesPassword(t *testing.T) {
	target := Target{User: admin.Name, Password: admin.Password}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		require.Equal(t, admin.Name, fmt.Sprintf(verb, target))
		require.NotContains(t, fmt.Sprintf(verb, []Target{target}), admin.Password)
		require.NotContains(t, fmt.Sprintf(verb, &target), admin.Password)
	}
	require.Equal(t, admin.Name, target.String())
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("login", "target", target)
	require.NotContains(t, logged.String(), admin.Password)
}

func TestOpen_AnyAuthType_LogsIn(t *testing.T) {
	for _, how := range []string{"scram-sha-256", "md5", "trust"} {
		t.Run(how, func(t *testing.T) {
			parts.Each(t, parts.Options{AuthType: how}, func(t *testing.T, p *parts.Pooler) {
				c := open(t, p)
				require.Equal(t, filepath.Base(t.Name()), fmt.Sprintf("%d.%d", c.Version().Major, c.Version().Minor))
				_, err := openAnother(t, c).Pools(t.Context())
				require.NoError(t, err)
			})
		})
	}
}

func TestOpen_WrongLogin_IsRefused(t *testing.T) {
	for _, how := range []string{"scram-sha-256", "md5"} {
		parts.Each(t, parts.Options{AuthType: how}, func(t *testing.T, p *parts.Pooler) {
			for _, user := range []parts.User{{Name: "unknown", Password: "x"}, app, wrong} {
				require.ErrorIs(t, requireOpenFails(t, targetOf(p, user)), ErrRefused)
			}
			c, err := Open(t.Context(), targetOf(p, stats))
			require.NoError(t, err)
			c.Close()
		})
	}
}

func TestOpen_PasswordChanged_CountsForNextLogin(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		held := open(t, p)
		p.SetPassword(t, admin.Name, "rotated")
		_, err := held.Pools(t.Context())
		require.NoError(t, err, "an open console stays usable")
		require.ErrorIs(t, requireOpenFails(t, targetOf(p, admin)), ErrRefused)
		c, err := Open(t.Context(), targetOf(p, parts.User{Name: admin.Name, Password: "rotated"}))
		require.NoError(t, err)
		c.Close()
	})
}

func TestOpen_PostgreSQL_NotPgbouncer(t *testing.T) {
	database := postgres.Shared(t)
	target := Target{Dial: dialer(database.Addr), TLS: TLSDisable, User: "postgres"}
	err := requireOpenFails(t, target)
	require.ErrorIs(t, err, ErrNotPgbouncer)
	require.ErrorContains(t, err, `database "pgbouncer" does not exist`)

	database.Query(t, "CREATE DATABASE pgbouncer")
	defer database.Query(t, "DROP DATABASE pgbouncer WITH (FORCE)")
	err = requireOpenFails(t, target)
	require.ErrorIs(t, err, ErrNotPgbouncer)
	require.ErrorContains(t, err, "15.")
}

func dialer(addr string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "tcp", addr)
	}
}

func TestConfig_Environment_IsIgnored(t *testing.T) {
	poolers := []*parts.Pooler{parts.Start(t, parts.Older, parts.Options{}), parts.Start(t, parts.Newer, parts.Options{})}
	home := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(home, ".pgpass"), []byte("*:*:*:*:leaked\n"), 0o600))
	for name, value := range map[string]string{
		"HOME": home, "PGHOST": "192.0.2.1", "PGPORT": "none", "PGDATABASE": "leaked", "PGUSER": "leaked",
		"PGPASSWORD": "leaked", "PGPASSFILE": filepath.Join(home, ".pgpass"), "PGAPPNAME": "leaked",
		"PGCONNECT_TIMEOUT": "leaked", "PGSSLMODE": "verify-full", "PGSSLKEY": "leaked", "PGSSLCERT": "leaked",
		"PGSSLCERTMODE": "require", "PGSSLSNI": "1", "PGSSLROOTCERT": "leaked", "PGSSLPASSWORD": "leaked",
		"PGSSLNEGOTIATION": "direct", "PGTARGETSESSIONATTRS": "read-write", "PGSERVICEFILE": "leaked",
		"PGTZ": "leaked", "PGOPTIONS": "-c leaked=1", "PGMINPROTOCOLVERSION": "3.2", "PGMAXPROTOCOLVERSION": "latest",
		"PGCHANNELBINDING": "require", "PGREQUIREAUTH": "password",
	} {
		t.Setenv(name, value)
	}
	config, err := Target{User: "u", TLS: TLSDisable}.config(nil, nil)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"application_name": "quiesce"}, config.RuntimeParams)
	require.Empty(t, config.Password)
	require.Empty(t, config.Fallbacks)
	require.Nil(t, config.TLSConfig)
	require.Nil(t, config.ValidateConnect)
	require.NotContains(t, fmt.Sprintf("%+v", config), "leaked")
	for _, p := range poolers {
		open(t, p)
	}
}

func TestConfig_ServiceFile_IsIgnored(t *testing.T) {
	file := filepath.Join(t.TempDir(), "services")
	require.NoError(t, os.WriteFile(file, []byte("[leaked]\nhost=192.0.2.1\n"), 0o600))
	t.Setenv("PGSERVICE", "leaked")
	t.Setenv("PGSERVICEFILE", file)
	open(t, parts.Start(t, parts.Newer, parts.Options{}))
	t.Setenv("PGSERVICE", "another")
	_, err := Target{TLS: TLSDisable}.config(nil, nil)
	require.ErrorContains(t, err, "service")
}

// encrypted reports whether pgbouncer sees the console's connection as encrypted.
func encrypted(t *testing.T, c *Console) bool {
	t.Helper()
	is := false
	require.NoError(t, c.show(t.Context(), "clients", func(r *row) { is = r.text("tls") != "" }))
	return is
}

func TestOpen_TLSModes_EncryptAsConfigured(t *testing.T) {
	parts.Each(t, parts.Options{TLS: "allow"}, func(t *testing.T, p *parts.Pooler) {
		for mode, want := range map[TLSMode]bool{
			TLSDisable: false, TLSPrefer: true, TLSRequire: true, TLSVerifyFull: true,
		} {
			target := targetOf(p, admin)
			target.TLS, target.ServerName, target.RootCAs = mode, parts.ServerName, p.CertPool(t)
			c, err := Open(t.Context(), target)
			require.NoError(t, err, mode)
			require.Equal(t, want, encrypted(t, c), mode)
			app := p.Connect(t)
			parts.Exec(t, app, "BEGIN")
			pending := pause(t, p, c)
			c.Close()
			awaitClosed(t, pending.Done())
			other, err := Open(t.Context(), target)
			require.NoError(t, err, mode)
			require.NoError(t, other.Resume(t.Context()))
			other.Close()
			parts.Exec(t, app, "COMMIT")
		}
	})
}

func TestOpen_ServerWithoutTLS_RequireFails(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		target := targetOf(p, admin)
		target.TLS = TLSPrefer
		c, err := Open(t.Context(), target)
		require.NoError(t, err)
		c.Close()
		target.TLS = TLSRequire
		require.ErrorIs(t, requireOpenFails(t, target), ErrTLS)
	})
}

func TestOpen_ServerRequiresTLS_IsTLSError(t *testing.T) {
	parts.Each(t, parts.Options{TLS: "require"}, func(t *testing.T, p *parts.Pooler) {
		require.ErrorIs(t, requireOpenFails(t, targetOf(p, admin)), ErrTLS)
	})
}

func TestOpen_RefusedWithTLS_NoRetryWithoutTLS(t *testing.T) {
	p := parts.Start(t, parts.Newer, parts.Options{TLS: "allow"})
	dials := 0
	target := targetOf(p, wrong)
	target.TLS = TLSPrefer
	target.Dial = func(ctx context.Context) (net.Conn, error) { dials++; return p.Dial(ctx) }
	require.ErrorIs(t, requireOpenFails(t, target), ErrRefused)
	require.Equal(t, 1, dials)
}

func TestOpen_WrongCertificate_TLSError(t *testing.T) {
	p := parts.Start(t, parts.Newer, parts.Options{TLS: "allow"})
	another := parts.Start(t, parts.Newer, parts.Options{TLS: "allow"})
	target := targetOf(p, admin)
	target.TLS, target.ServerName, target.RootCAs = TLSVerifyFull, "another.test", p.CertPool(t)
	require.ErrorIs(t, requireOpenFails(t, target), ErrTLS)
	target.ServerName, target.RootCAs = parts.ServerName, another.CertPool(t)
	require.ErrorIs(t, requireOpenFails(t, target), ErrTLS)
}

func TestOpen_InvalidTLSSettings_SendsNothing(t *testing.T) {
	for _, target := range []Target{
		{}, {TLS: "verify-ca"}, {TLS: TLSVerifyFull, ServerName: "x"}, {TLS: TLSVerifyFull, RootCAs: x509.NewCertPool()},
	} {
		target.User, target.Password = admin.Name, admin.Password
		require.ErrorIs(t, requireOpenFails(t, target), ErrTLS)
	}
}

func TestOpen_CleartextPassword_OnlyWithVerifiedTLS(t *testing.T) {
	parts.Each(t, parts.Options{AuthType: "plain", TLS: "allow"}, func(t *testing.T, p *parts.Pooler) {
		target := targetOf(p, admin)
		for _, target.TLS = range []TLSMode{TLSDisable, TLSPrefer, TLSRequire} {
			require.ErrorIs(t, requireOpenFails(t, target), ErrCleartext)
		}
		target.TLS, target.ServerName, target.RootCAs = TLSVerifyFull, parts.ServerName, p.CertPool(t)
		c, err := Open(t.Context(), target)
		require.NoError(t, err)
		c.Close()
	})
}

// refusedLater is a connection over a tunnel: that nothing listens in the pod is said after it was opened.
type refusedLater struct{ net.Conn }

func (refusedLater) Read([]byte) (int, error) {
	return 0, &os.SyscallError{Syscall: "connect", Err: syscall.ECONNREFUSED}
}

func TestOpen_NothingListensBehindATunnel_ErrorSaysSo(t *testing.T) {
	for _, mode := range []TLSMode{TLSDisable, TLSPrefer, TLSRequire} {
		near, far := net.Pipe()
		defer far.Close()
		go func() { _, _ = io.Copy(io.Discard, far) }()
		err := requireOpenFails(t, Target{
			Dial: func(context.Context) (net.Conn, error) { return refusedLater{near}, nil }, User: admin.Name, Password: admin.Password, TLS: mode,
		})
		require.ErrorIs(t, err, ErrUnreachable, mode)
		require.ErrorIs(t, err, syscall.ECONNREFUSED, mode)
	}
}

func TestExplain_KnownTexts_KnownErrors(t *testing.T) {
	for text, want := range map[string]error{
		"SASL authentication failed":                  ErrRefused,
		"password authentication failed":              ErrRefused,
		`password authentication failed for user "x"`: ErrRefused,
		"trust authentication failed":                 ErrRefused,
		"no such user: x":                             ErrRefused,
		"not allowed":                                 ErrRefused,
		"login rejected":                              ErrRefused,
		"bouncer config error":                        ErrRefused,
		"SSL required":                                ErrTLS,
		"pooler is shutting down":                     ErrShuttingDown,
	} {
		require.ErrorIs(t, explainRefusal(&pgconn.PgError{Code: "08P01", Message: text}), want, text)
	}
	for text, want := range map[string]error{
		"admin access needed":                          ErrNotAdmin,
		"pooler is shutting down":                      ErrShuttingDown,
		"already suspended/paused":                     ErrAlreadyPaused,
		"pooler is not paused/suspended":               errNotPaused,
		"invalid command 'SHOW STATE', use SHOW HELP;": ErrUnsupported,
	} {
		require.ErrorIs(t, explain(&pgconn.PgError{Code: "08P01", Message: text}, commandErrors), want, text)
	}
	unknown := &pgconn.PgError{Code: "08P01", Message: "no more connections allowed (max_client_conn)"}
	require.EqualError(t, explainRefusal(unknown), unknown.Error())
}
