package pooler

import (
	"iter"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	parts "quiesce/test/parts/pgbouncer"
)

const (
	// testTimeout is for a busy machine. A test that passes waits for seconds at the most.
	testTimeout  = time.Minute
	shortTimeout = 10 * time.Second // an escort's time that a test waits for: a busy machine needs seconds for the login
	pollInterval = 10 * time.Millisecond
)

var (
	admin = escort.Login{User: parts.Admin.Name, Password: parts.Admin.Password}
	stats = escort.Login{User: parts.Stats.Name, Password: parts.Stats.Password}
)

// loginsOf yields the logins in order.
func loginsOf(logins ...escort.Login) iter.Seq2[escort.Login, error] {
	return func(yield func(escort.Login, error) bool) {
		for _, login := range logins {
			if !yield(login, nil) {
				return
			}
		}
	}
}

// openConsole logs the admin in to the pooler's console, until the test ends.
func openConsole(t *testing.T, p *parts.Pooler) *pgbouncer.Console {
	t.Helper()
	c, err := pgbouncer.Open(t.Context(), pgbouncer.Target{
		Dial: p.Dial, User: admin.User, Password: admin.Password, TLS: pgbouncer.TLSDisable,
	})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func within(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(testTimeout):
		require.FailNow(t, "it takes too long")
	}
}

// pause pauses the pooler, and returns when the pause is in force.
func pause(t *testing.T, p *parts.Pooler, c *pgbouncer.Console) *pgbouncer.Pending {
	t.Helper()
	var pending *pgbouncer.Pending
	p.RequireLogs(t, "PAUSE command issued", func() {
		var err error
		pending, err = c.Pause(t.Context())
		require.NoError(t, err)
	})
	return pending
}

// requirePaused fails unless pgbouncer is still paused: then it refuses another PAUSE.
func requirePaused(t *testing.T, c *pgbouncer.Console) {
	t.Helper()
	pending, err := c.Pause(t.Context())
	require.NoError(t, err)
	within(t, pending.Done())
	require.ErrorIs(t, pending.Err(), pgbouncer.ErrAlreadyPaused)
}
