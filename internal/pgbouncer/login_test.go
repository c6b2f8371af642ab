package pgbouncer

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/pgbouncer"
)

var (
	// app has no business on the console.
	app   = Login{pooler.App.Name, pooler.App.Password}
	wrong = Login{pooler.Admin.Name, "not the admin's password"}
)

// fails opens a console, which must fail without telling a password.
func fails(t *testing.T, target Target) error {
	t.Helper()
	c, err := Open(t.Context(), target)
	if err == nil {
		c.Close()
	}
	require.Error(t, err)
	for _, verb := range []string{"%v", "%+v", "%#v", "%q"} {
		for _, login := range []Login{admin, stats, wrong} {
			require.NotContains(t, fmt.Sprintf(verb, err), login.Password)
		}
	}
	return err
}

func TestALoginIsPrintedWithoutItsPassword(t *testing.T) {
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		require.Equal(t, admin.User, fmt.Sprintf(verb, admin))
		require.NotContains(t, fmt.Sprintf(verb, []Login{admin}), admin.Password)
		require.NotContains(t, fmt.Sprintf(verb, &admin), admin.Password)
	}
	require.Equal(t, admin.User, admin.String())
	encoded, err := json.Marshal(admin)
	require.NoError(t, err)
	require.NotContains(t, string(encoded), admin.Password)
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("login", "login", admin, "logins", []Login{admin})
	require.NotContains(t, logged.String(), admin.Password)
}

func TestBothGenerationsLetUsInHoweverTheyAskForThePassword(t *testing.T) {
	for _, how := range []string{"scram-sha-256", "md5", "trust"} {
		t.Run(how, func(t *testing.T) {
			each(t, pooler.Options{AuthType: how}, func(t *testing.T, p *pooler.Pooler) {
				c := open(t, p)
				require.Equal(t, filepath.Base(t.Name()), fmt.Sprintf("%d.%d", c.Version().Major, c.Version().Minor))
				_, err := again(t, c).Pools(t.Context())
				require.NoError(t, err)
			})
		})
	}
}

// counted tells how many logins were asked for.
func counted(logins iter.Seq2[Login, error], asked *int) iter.Seq2[Login, error] {
	return func(yield func(Login, error) bool) {
		for login, err := range logins {
			*asked++
			if !yield(login, err) {
				return
			}
		}
	}
}

func TestTheNextLoginIsTriedAfterARefusalAndOnlyThen(t *testing.T) {
	for _, how := range []string{"scram-sha-256", "md5"} {
		each(t, pooler.Options{AuthType: how}, func(t *testing.T, p *pooler.Pooler) {
			asked := 0
			target := plain(p)
			target.Logins = counted(these(Login{"nobody", "x"}, app, wrong, wrong, admin, stats), &asked)
			c, err := Open(t.Context(), target)
			require.NoError(t, err)
			defer c.Close()
			require.Equal(t, 5, asked)
			require.Equal(t, admin, c.login)
		})
	}
}

func TestALoginIsNotTriedTwice(t *testing.T) {
	p := newer(t, pooler.Options{})
	dials := 0
	target := plain(p, wrong, wrong, wrong)
	target.Dial = func(ctx context.Context) (net.Conn, error) { dials++; return p.Dial(ctx) }
	require.ErrorIs(t, fails(t, target), ErrRefused)
	require.Equal(t, 1, dials)
}

func TestACredentialThatCannotBeHadIsPassedOver(t *testing.T) {
	p := newer(t, pooler.Options{})
	missing := errors.New("there is no such secret")
	target := plain(p)
	target.Logins = func(yield func(Login, error) bool) { _ = yield(Login{}, missing) && yield(admin, nil) }
	c, err := Open(t.Context(), target)
	require.NoError(t, err)
	c.Close()

	target.Logins = func(yield func(Login, error) bool) { _ = yield(wrong, nil) && yield(Login{}, missing) }
	err = fails(t, target)
	require.ErrorIs(t, err, missing)
	require.ErrorIs(t, err, ErrRefused)
}

func TestWithoutCredentialsNobodyIsAsked(t *testing.T) {
	target := Target{TLS: TLSDisable, Logins: these()}
	require.ErrorIs(t, fails(t, target), ErrNoLogin)
}

func TestAPasswordChangedOnThePoolerCountsForTheNextLoginOnly(t *testing.T) {
	each(t, pooler.Options{}, func(t *testing.T, p *pooler.Pooler) {
		held := open(t, p)
		p.SetPassword(t, admin.User, "rotated")
		_, err := held.Pools(t.Context())
		require.NoError(t, err, "who is in stays in")
		require.ErrorIs(t, fails(t, plain(p, admin)), ErrRefused)
		c, err := Open(t.Context(), plain(p, admin, Login{admin.User, "rotated"}))
		require.NoError(t, err)
		c.Close()
	})
}

func TestPostgreSQLItselfIsNotAPgbouncer(t *testing.T) {
	database := pooler.Shared(t)
	target := Target{Dial: dialer(database.Addr), TLS: TLSDisable, Logins: these(Login{User: "postgres"})}
	err := fails(t, target)
	require.ErrorIs(t, err, ErrNotPgbouncer)
	require.ErrorContains(t, err, `database "pgbouncer" does not exist`)

	database.Query(t, "CREATE DATABASE pgbouncer")
	defer database.Query(t, "DROP DATABASE pgbouncer WITH (FORCE)")
	err = fails(t, target)
	require.ErrorIs(t, err, ErrNotPgbouncer)
	require.ErrorContains(t, err, "15.")
}

func dialer(addr string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "tcp", addr)
	}
}

func TestNothingOfTheEnvironmentLeaksIn(t *testing.T) {
	poolers := []*pooler.Pooler{older(t, pooler.Options{}), newer(t, pooler.Options{})}
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
	config, err := Target{TLS: TLSDisable}.config(nil, Login{User: "u"})
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

func TestAServiceFileIsNotFollowed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "services")
	require.NoError(t, os.WriteFile(file, []byte("[leaked]\nhost=192.0.2.1\n"), 0o600))
	t.Setenv("PGSERVICE", "leaked")
	t.Setenv("PGSERVICEFILE", file)
	open(t, newer(t, pooler.Options{}))
	t.Setenv("PGSERVICE", "another")
	_, err := Target{TLS: TLSDisable}.config(nil, admin)
	require.ErrorContains(t, err, "service")
}

func certified(t *testing.T, p *pooler.Pooler) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(p.CA))
	return pool
}

// encrypted tells whether the pooler sees the console's connection as such.
func encrypted(t *testing.T, c *Console) bool {
	t.Helper()
	is := false
	require.NoError(t, c.show(t.Context(), "clients", func(r *row) { is = r.text("tls") != "" }))
	return is
}

func TestTLSIsUsedAsTheModeSays(t *testing.T) {
	each(t, pooler.Options{TLS: "allow"}, func(t *testing.T, p *pooler.Pooler) {
		for mode, want := range map[TLSMode]bool{
			TLSDisable: false, TLSPrefer: true, TLSRequire: true, TLSVerifyFull: true,
		} {
			target := plain(p, admin)
			target.TLS, target.ServerName, target.RootCAs = mode, pooler.ServerName, certified(t, p)
			c, err := Open(t.Context(), target)
			require.NoError(t, err, mode)
			require.Equal(t, want, encrypted(t, c), mode)
			app := p.Connect(t)
			run(t, app, "BEGIN")
			pending := pause(t, p, c)
			c.Close()
			within(t, pending.Done())
			require.NoError(t, again(t, c).Resume(t.Context()))
			run(t, app, "COMMIT")
		}
	})
}

func TestOnAPoolerWithoutTLSOnlyThoseWhoDoNotInsistGetIn(t *testing.T) {
	each(t, pooler.Options{}, func(t *testing.T, p *pooler.Pooler) {
		target := plain(p, admin)
		target.TLS = TLSPrefer
		c, err := Open(t.Context(), target)
		require.NoError(t, err)
		c.Close()
		target.TLS = TLSRequire
		require.ErrorIs(t, fails(t, target), ErrTLS)
	})
}

func TestAPoolerThatInsistsOnTLSIsToldFromARefusal(t *testing.T) {
	each(t, pooler.Options{TLS: "require"}, func(t *testing.T, p *pooler.Pooler) {
		require.ErrorIs(t, fails(t, plain(p, admin)), ErrTLS)
	})
}

func TestARefusedLoginIsNotRepeatedWithoutTLS(t *testing.T) {
	p := newer(t, pooler.Options{TLS: "allow"})
	dials := 0
	target := plain(p, wrong)
	target.TLS = TLSPrefer
	target.Dial = func(ctx context.Context) (net.Conn, error) { dials++; return p.Dial(ctx) }
	require.ErrorIs(t, fails(t, target), ErrRefused)
	require.Equal(t, 1, dials)
}

func TestAServerThatCannotProveItsNameIsNotTalkedTo(t *testing.T) {
	p, another := newer(t, pooler.Options{TLS: "allow"}), newer(t, pooler.Options{TLS: "allow"})
	target := plain(p, admin)
	target.TLS, target.ServerName, target.RootCAs = TLSVerifyFull, "another.test", certified(t, p)
	require.ErrorIs(t, fails(t, target), ErrTLS)
	target.ServerName, target.RootCAs = pooler.ServerName, certified(t, another)
	require.ErrorIs(t, fails(t, target), ErrTLS)
}

func TestSenselessTLSSettingsAreRefusedBeforeAnythingIsSent(t *testing.T) {
	for _, target := range []Target{
		{}, {TLS: "verify-ca"}, {TLS: TLSVerifyFull, ServerName: "x"}, {TLS: TLSVerifyFull, RootCAs: x509.NewCertPool()},
	} {
		target.Logins = these(admin)
		require.ErrorIs(t, fails(t, target), ErrTLS)
	}
}

func TestAPasswordIsToldInCleartextOnlyToWhoHasProvedItsName(t *testing.T) {
	each(t, pooler.Options{AuthType: "plain", TLS: "allow"}, func(t *testing.T, p *pooler.Pooler) {
		target := plain(p, admin)
		for _, target.TLS = range []TLSMode{TLSDisable, TLSPrefer, TLSRequire} {
			require.ErrorIs(t, fails(t, target), ErrCleartext)
		}
		target.TLS, target.ServerName, target.RootCAs = TLSVerifyFull, pooler.ServerName, certified(t, p)
		c, err := Open(t.Context(), target)
		require.NoError(t, err)
		c.Close()
	})
}

func TestErrorsAreKnownByTheirText(t *testing.T) {
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
		require.ErrorIs(t, explain(&pgconn.PgError{Code: "08P01", Message: text}, commandMeanings), want, text)
	}
	unknown := &pgconn.PgError{Code: "08P01", Message: "no more connections allowed (max_client_conn)"}
	require.Equal(t, error(unknown), explainRefusal(unknown))
}
