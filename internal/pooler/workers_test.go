package pooler

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
	parts "quiesce/test/parts/pgbouncer"
)

const (
	crowd = 20
	// thinking is the pause between two transactions. Without it, a session would never be seen between them, and never end.
	thinking = 10 * time.Millisecond
)

// workers make transactions until they are stopped. When a connection ends, they connect to the next pooler.
type workers struct {
	poolers []*parts.Pooler
	stop    context.CancelFunc
	done    sync.WaitGroup

	mutex     sync.Mutex
	committed int
	aborted   int        // within their transaction
	ambiguous int        // while they committed
	rejected  int        // before their transaction began
	at        [crowd]int // the pooler on which each has committed last
	stalls    [crowd]time.Duration
	last      error // of an aborted or ambiguous transaction
}

// makeTable makes the table to which all workers write, in the database that all poolers share. IF NOT EXISTS does not suit parallel
// tests: two of them may both find it missing.
var makeTable struct {
	sync.Once
	err error
}

// work starts the workers, on the poolers in turn.
func work(t *testing.T, poolers ...*parts.Pooler) *workers {
	t.Helper()
	makeTable.Do(func() { makeTable.err = once(poolers[0], "CREATE TABLE work (worker int)") })
	require.NoError(t, makeTable.err)
	ctx, cancel := context.WithCancel(context.Background())
	w := &workers{poolers: poolers, stop: cancel}
	for i := range crowd {
		w.done.Go(func() { w.run(ctx, i) })
	}
	t.Cleanup(func() { w.finish() })
	require.Eventually(t, func() bool { return w.commits() > 2*crowd }, testTimeout, pollInterval)
	return w
}

// finish stops the workers and waits for them.
func (w *workers) finish() {
	w.stop()
	w.done.Wait()
}

func (w *workers) commits() int {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.committed
}

func (w *workers) run(ctx context.Context, number int) {
	last := time.Now()
	for next := number; ctx.Err() == nil; next++ {
		session, err := login(ctx, w.poolers[next%len(w.poolers)])
		if err != nil {
			continue
		}
		for escort.Sleep(ctx, thinking) == nil && w.transact(session) {
			w.count(func() {
				w.at[number] = next % len(w.poolers)
				w.stalls[number] = max(w.stalls[number], time.Since(last))
			})
			last = time.Now()
		}
		_ = session.Close(context.Background())
	}
}

// allAt reports whether every worker has committed last on this pooler.
func (w *workers) allAt(pooler int) bool {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return !slices.ContainsFunc(w.at[:], func(at int) bool { return at != pooler })
}

func (w *workers) count(change func()) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	change()
}

// transact makes one transaction, and reports whether the connection can be used again. Its commands are never canceled, so that the
// last transaction is committed too.
func (w *workers) transact(session *pgconn.PgConn) bool {
	ctx := context.Background()
	for i, sql := range []string{"BEGIN", "INSERT INTO work VALUES (1)", "SELECT pg_sleep(0.03)", "COMMIT"} {
		if _, err := session.Exec(ctx, sql).ReadAll(); err != nil {
			w.count(func() { w.fail(i, err) })
			return false
		}
	}
	w.count(func() { w.committed++ })
	return true
}

// fail counts a transaction by the command that failed.
func (w *workers) fail(command int, err error) {
	*[]*int{&w.rejected, &w.aborted, &w.aborted, &w.ambiguous}[command]++
	if command > 0 {
		w.last = err
	}
}

func login(ctx context.Context, p *parts.Pooler) (*pgconn.PgConn, error) {
	config, err := pgconn.ParseConfig("postgres://" + p.Addr + "/" + parts.App.Name + "?sslmode=disable&user=" + parts.App.Name)
	if err != nil {
		return nil, err
	}
	config.Password = parts.App.Password
	ctx, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	return pgconn.ConnectConfig(ctx, config)
}

// requireNothingAborted stops the workers, and requires that none of their transactions was aborted.
func (w *workers) requireNothingAborted(t *testing.T) {
	t.Helper()
	w.finish()
	t.Logf("committed %d, rejected %d, longest stall %v", w.committed, w.rejected, slices.Max(w.stalls[:]))
	require.Zero(t, w.aborted, "aborted: %v", w.last)
	require.Zero(t, w.ambiguous, "ambiguous: %v", w.last)
}

// workOnce runs one statement over a connection of its own.
func workOnce(p *parts.Pooler) error { return once(p, "SELECT") }

func once(p *parts.Pooler, sql string) error {
	session, err := login(context.Background(), p)
	if err != nil {
		return err
	}
	_, err = session.Exec(context.Background(), sql).ReadAll()
	return errors.Join(err, session.Close(context.Background()))
}
