package pgbouncer

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// Older and Newer are versions whose shutdowns differ: from 1.23 on, SIGTERM waits for clients.
const (
	Older = "1.18"
	Newer = "1.24"
)

// Each runs a test against a pooler of each version.
func Each(t *testing.T, o Options, test func(t *testing.T, p *Pooler)) {
	for _, version := range []string{Older, Newer} {
		t.Run(version, func(t *testing.T) { test(t, Start(t, version, o)) })
	}
}

// Exec runs SQL that must succeed.
func Exec(t *testing.T, session *pgconn.PgConn, sql string) {
	t.Helper()
	_, err := session.Exec(t.Context(), sql).ReadAll()
	require.NoError(t, err)
}

// RequireLogs runs an action, and waits until the pooler has logged the text once more than before.
func (p *Pooler) RequireLogs(t *testing.T, text string, action func()) {
	t.Helper()
	before := strings.Count(p.Log(t), text)
	action()
	require.Eventually(t, func() bool { return strings.Count(p.Log(t), text) > before }, logTimeout, logInterval)
}

const (
	logTimeout  = time.Minute // for a busy machine
	logInterval = 10 * time.Millisecond
)

// CertPool returns a pool with the pooler's certificate.
func (p *Pooler) CertPool(t *testing.T) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(p.CA))
	return pool
}
