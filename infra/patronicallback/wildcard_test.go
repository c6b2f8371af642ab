package main

import (
	"bytes"
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"quiesce/internal/pgbouncer"
	parts "quiesce/test/parts/pgbouncer"
	"quiesce/test/parts/postgres"
)

// A database of the entry "*" that is paused, and whose clients all leave, is not among those that pgbouncer shows. It is resumed all the
// same: otherwise the next client would wait in vain.
func TestBeforeStop_DatabaseOfWildcardIsForgottenWhilePaused_Resumed(t *testing.T) {
	t.Parallel()
	f := newFixture(t, parts.Start(t, parts.Newer, parts.Options{Aliases: []string{"*"}}))
	client := connectTo(t, f.poolers[0], "any")
	require.Zero(t, f.run(beforeStop, "-databases any"))
	_, paused := f.find("any")
	require.True(t, paused)
	require.NoError(t, client.Close(t.Context()))
	require.Eventually(t, func() bool { found, _ := f.find("any"); return !found }, waitTimeout, waitInterval)
	f.say("running", "primary")
	f.awaitNoWatcher()
	connectTo(t, f.poolers[0], "any")
}

// pgbouncer may forget the database again between the login and SHOW DATABASES. That is not taken for the end of the pause.
func TestLook_DatabaseOfWildcardIsForgottenInBetween_StillPaused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, parts.Start(t, parts.Newer, parts.Options{Aliases: []string{"*"}}))
	client := connectTo(t, f.poolers[0], "any")
	require.Zero(t, f.run(beforeStop, "-databases any"))
	require.NoError(t, client.Close(t.Context()))
	p := newPooler(f.poolers[0].Addr, targetOf(f.poolers[0]), options{databases: "any"})
	defer p.close()
	p.target.Dial = func(ctx context.Context) (net.Conn, error) {
		conn, err := f.poolers[0].Dial(ctx)
		return slowShow{conn}, err
	}
	for range 5 {
		require.Eventually(t, func() bool { found, _ := f.find("any"); return !found }, waitTimeout, waitInterval)
		v, err := p.look(t.Context())
		require.NoError(t, err)
		require.True(t, v.paused)
	}
}

// A pooler need not have all databases of the cluster.
func TestLook_PoolerLacksADatabase_OthersAreShown(t *testing.T) {
	t.Parallel()
	f := newFixture(t, parts.Start(t, parts.Newer, parts.Options{}))
	p := newPooler(f.poolers[0].Addr, targetOf(f.poolers[0]), options{databases: parts.App.Name + ",reports"})
	defer p.close()
	for range 2 {
		v, err := p.look(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{parts.App.Name}, v.databases)
		require.Equal(t, []string{"reports"}, p.lacks)
	}
}

// slowShow is a connection on which SHOW DATABASES takes a part of the time after which pgbouncer forgets.
type slowShow struct{ net.Conn }

func (c slowShow) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("SHOW databases")) {
		time.Sleep(200 * time.Millisecond)
	}
	return c.Conn.Write(b)
}

// find returns whether the first pooler shows a database, and whether it is paused.
func (f *fixture) find(name string) (found, paused bool) {
	f.Helper()
	console, err := pgbouncer.Open(f.Context(), targetOf(f.poolers[0]))
	require.NoError(f, err)
	defer console.Close()
	all, err := console.Databases(f.Context())
	require.NoError(f, err)
	i := slices.IndexFunc(all, func(d pgbouncer.Database) bool { return d.Name == name })
	return i >= 0, i >= 0 && all[i].Paused
}

// connectTo connects to a database, and makes one query.
func connectTo(t *testing.T, p *parts.Pooler, name string) *pgconn.PgConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	defer cancel()
	client, err := postgres.Connect(ctx, p.Addr, parts.App, name)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close(context.WithoutCancel(t.Context())) })
	_, err = client.Exec(ctx, "SELECT 1").ReadAll()
	require.NoError(t, err)
	return client
}
