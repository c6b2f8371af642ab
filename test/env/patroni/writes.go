package patroni

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// writeInterval is the time between writes at each member: the precision of Writes.
const writeInterval = 25 * time.Millisecond

// writeIfLeader writes to the log if the member takes writes. It does not wait for standbys.
const writeIfLeader = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_logical_emit_message(true, 'probe', '') END"

// Writes are the times at which members took writes.
type Writes struct {
	mutex       sync.Mutex
	first, last map[string]time.Time // by member
	stop        func()
	watching    sync.WaitGroup
}

// WatchWrites writes to each member again and again until Stop, past poolers and Services. Connections outlive a promotion, so the first
// write of a new leader comes as soon as it is possible.
func (c *Cluster) WatchWrites(ctx context.Context) (*Writes, error) {
	members, err := c.Members(ctx)
	if err != nil {
		return nil, err
	}
	w := &Writes{first: map[string]time.Time{}, last: map[string]time.Time{}}
	ctx, w.stop = context.WithCancel(ctx)
	for _, m := range members {
		w.watching.Go(func() { w.watch(ctx, m.Name, m.Status.PodIP) })
	}
	return w, nil
}

// Stop ends the writes.
func (w *Writes) Stop() {
	w.stop()
	w.watching.Wait()
}

// Leaderless returns the time from the last write that the old leader took to the first that the new one took.
func (w *Writes) Leaderless(old, now string) (time.Duration, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	last, first := w.last[old], w.first[now]
	if last.IsZero() || first.Before(last) {
		return 0, fmt.Errorf("no leader between %s and %s: %v, %v", old, now, last, first)
	}
	return first.Sub(last), nil
}

// watch connects to a member again and again, as it stops and starts.
func (w *Writes) watch(ctx context.Context, member, address string) {
	for pause(ctx) {
		connection, err := pgconn.Connect(ctx, fmt.Sprintf(
			"postgres://postgres@%s:5432/postgres?sslmode=disable&connect_timeout=1&options=-c%%20synchronous_commit%%3Dlocal", address))
		if err != nil {
			continue
		}
		for pause(ctx) {
			if !w.write(ctx, connection, member) {
				break
			}
		}
		_ = connection.Close(context.WithoutCancel(ctx))
	}
}

// write writes once. It reports whether the connection is still good.
func (w *Writes) write(ctx context.Context, connection *pgconn.PgConn, member string) bool {
	results, err := connection.Exec(ctx, writeIfLeader).ReadAll()
	if err != nil {
		return false
	}
	if results[0].Rows[0][0] == nil {
		return true
	}
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.last[member] = time.Now()
	if w.first[member].IsZero() {
		w.first[member] = w.last[member]
	}
	return true
}

// pause waits for the next write. It reports whether there is one.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(writeInterval):
		return true
	}
}
