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

	parts "quiesce/test/parts/pgbouncer"
)

const (
	crowd = 20
	// thinking is what workers do between transactions: a session that is never seen between two of them is never ended.
	thinking = 10 * time.Millisecond
)

// workers go on with transactions until they are told to stop, and connect to the next pooler when their connection ends.
type workers struct {
	poolers []*parts.Pooler
	stop    context.CancelFunc
	done    sync.WaitGroup

	mutex     sync.Mutex
	committed int
	aborted   int // within their transaction
	ambiguous int // while they committed
	turned    int // away before their transaction began
	stalls    [crowd]time.Duration
	last      error // that one of the aborted or ambiguous met with
}

// makeTable makes the table that all workers write to, in the database that all poolers share. IF NOT EXISTS is not for tests that
// run side by side: two that find it missing at once both make it.
var makeTable struct {
	sync.Once
	err error
}

// work sets the crowd to work, on the poolers in turn.
func work(t *testing.T, poolers ...*parts.Pooler) *workers {
	t.Helper()
	makeTable.Do(func() { makeTable.err = once(poolers[0], "CREATE TABLE work (worker int)") })
	require.NoError(t, makeTable.err)
	ctx, cancel := context.WithCancel(context.Background())
	w := &workers{poolers: poolers, stop: cancel}
	for i := range crowd {
		w.done.Go(func() { w.live(ctx, i) })
	}
	t.Cleanup(func() { w.rest() })
	require.Eventually(t, func() bool { return w.commits() > 2*crowd }, patience, glance)
	return w
}

// rest stops them and waits for it.
func (w *workers) rest() {
	w.stop()
	w.done.Wait()
}

func (w *workers) commits() int {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.committed
}

func (w *workers) live(ctx context.Context, number int) {
	last := time.Now()
	for next := number; ctx.Err() == nil; next++ {
		session, err := login(ctx, w.poolers[next%len(w.poolers)])
		if err != nil {
			continue
		}
		for pass(ctx, thinking) == nil && w.transact(session) {
			w.count(func() { w.stalls[number] = max(w.stalls[number], time.Since(last)) })
			last = time.Now()
		}
		_ = session.Close(context.Background())
	}
}

// stallOf is the longest of those workers that began on this pooler.
func (w *workers) stallOf(pooler int) (longest time.Duration) {
	for i := pooler; i < crowd; i += len(w.poolers) {
		longest = max(longest, w.stalls[i])
	}
	return longest
}

func (w *workers) count(change func()) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	change()
}

// transact makes one transaction, and is false when the connection is of no more use. Its commands are never cancelled: the
// last transaction is committed, too.
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

// fail books a transaction by the command that failed.
func (w *workers) fail(command int, err error) {
	*[]*int{&w.turned, &w.aborted, &w.aborted, &w.ambiguous}[command]++
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
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return pgconn.ConnectConfig(ctx, config)
}

// requireNothingCut stops the workers: none of them may have lost a transaction.
func (w *workers) requireNothingCut(t *testing.T) {
	t.Helper()
	w.rest()
	t.Logf("committed %d, turned away %d, longest stall %v", w.committed, w.turned, slices.Max(w.stalls[:]))
	require.Zero(t, w.aborted, "aborted: %v", w.last)
	require.Zero(t, w.ambiguous, "ambiguous: %v", w.last)
}

// workOnce makes one statement over a connection of its own.
func workOnce(p *parts.Pooler) error { return once(p, "SELECT") }

func once(p *parts.Pooler, sql string) error {
	session, err := login(context.Background(), p)
	if err != nil {
		return err
	}
	_, err = session.Exec(context.Background(), sql).ReadAll()
	return errors.Join(err, session.Close(context.Background()))
}
