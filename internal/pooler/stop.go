package pooler

import (
	"context"
	"fmt"
	"hash/maphash"
	"math"
	"time"

	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

const (
	// clientsInterval is how often the clients are counted. Each costs 300 bytes, from a process with one thread and real work to do.
	clientsInterval = 250 * time.Millisecond
	// leavingTime is how long clients may disconnect by themselves, which spares each of them a closed connection. leavingPause ends
	// that early: when no client has disconnected for so long, the rest are taken to stay. Pools that recycle their connections do so
	// every few minutes or hours: a longer pause would hardly catch more of them.
	leavingTime  = 5 * time.Second
	leavingPause = 1500 * time.Millisecond
	// quietTime is how long no client must have logged in before the node proxies are taken to have noticed. They collect changes for
	// a second, by default (https://kubernetes.io/docs/reference/networking/virtual-ips/#optimize-iptables-mode-performance); this
	// leaves them another. Less risks refused connections, more only costs time.
	quietTime = 2 * time.Second
	// countInterval is how often open transactions are counted while they are waited for, and sessions told again to end. It is often
	// enough for the report's figure, and pgbouncer does not notice it.
	countInterval = 500 * time.Millisecond
)

// stop is how far a pooler is with stopping.
type stop struct {
	second    *pgbouncer.Console // on which a pause waits
	pause     *pgbouncer.Pending // nil: none was sent
	leftover  bool               // pgbouncer may still be paused by an escort that crashed
	signaled  bool               // SIGTERM has arrived: a shutdown may be made more urgent
	heldSince time.Time          // since when no transaction can begin
}

// method is how pgbouncer of one generation stops.
type method interface {
	// evictAndStop evicts the pod, and stops pgbouncer around the eviction.
	evictAndStop(ctx context.Context) error
	// stopTerminating stops pgbouncer in a pod that is terminating already.
	stopTerminating(ctx context.Context) error
	// stopThenEvict stops pgbouncer that a surge has replaced, and then evicts the pod.
	stopThenEvict(ctx context.Context) error
	// stopTransactions lets no more transactions begin, and waits for the open ones until the deadline.
	stopTransactions(ctx context.Context) error
	// livenessLimit returns how long stopTransactions may take before a liveness probe kills the container.
	livenessLimit() (limit time.Duration, limited bool)
	// finalShutdown does what is left to do when the drain ends after the eviction.
	finalShutdown(ctx context.Context)
}

// method returns how this version stops.
func (r *run) method() method {
	if r.version.WaitsOnShutdown() {
		return byShutdown{r}
	}
	return byPause{r}
}

// finalShutdown does what is left to do when the drain ends after the eviction.
func (r *run) finalShutdown(ctx context.Context) {
	if r.console != nil && !r.console.HasEnded() {
		r.method().finalShutdown(ctx)
	}
}

// withoutCancel is for commands on the console that is kept to the end. A canceled command costs the console, and a pooler that is
// paused or shuts down may accept no other. Each command has its own timeout.
func withoutCancel(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

// recycleServers tells sessions to end, each at the end of its transaction, and counts what is open. Telling them once is not enough:
// a pause on another console may be read later, and a session may begin before it.
func (r *run) recycleServers(ctx context.Context) error {
	if r.load.sessions {
		if err := r.console.Reconnect(withoutCancel(ctx)); err != nil {
			return err
		}
	}
	pools, err := r.console.Pools(withoutCancel(ctx))
	if err != nil {
		return err
	}
	r.load.inFlight = pools.InFlight()
	return nil
}

// awaitClientsLeaving lets clients disconnect by themselves, which costs them nothing, while any of them does.
func (r *run) awaitClientsLeaving(ctx context.Context, deadline time.Time) error {
	fewest, last := math.MaxInt, time.Now()
	err := escort.Poll(ctx, deadline, clientsInterval, func() (bool, error) {
		pools, err := r.console.Pools(withoutCancel(ctx))
		if clients := pools.Clients(); err == nil && clients < fewest {
			fewest, last = clients, time.Now()
		}
		return fewest == 0 || time.Since(last) >= leavingPause, err
	})
	return escort.IgnoreTimeout(err)
}

// awaitServicesRemoved waits until no Service sends new clients to the pod, and then until none has logged in for quietTime: the node
// proxies notice later.
func (r *run) awaitServicesRemoved(ctx context.Context, deadline time.Time) error {
	err := escort.Poll(ctx, deadline, clientsInterval, func() (bool, error) {
		serving, err := r.cluster.Serving(ctx, r.pod.Ref)
		return err == nil && !serving, nil
	})
	if err != nil {
		return escort.IgnoreTimeout(err)
	}
	present, last := addresses{}, time.Now()
	err = escort.Poll(ctx, deadline, clientsInterval, func() (bool, error) {
		now, err := r.addresses(withoutCancel(ctx))
		if now.hasNew(present) {
			last = time.Now()
		}
		present = now
		return time.Since(last) >= quietTime, err
	})
	return escort.IgnoreTimeout(err)
}

// addresses are hashes of the addresses of clients. A hundred consoles that are no pgbouncers can each have the longest addresses of the
// most clients, and all of them are kept at once.
type addresses map[uint64]struct{}

var addressSeed = maphash.MakeSeed()

// addresses returns the addresses of the pooler's clients.
func (r *run) addresses(ctx context.Context) (addresses, error) {
	present := addresses{}
	return present, r.console.EachClient(ctx, present.add)
}

func (a addresses) add(c pgbouncer.Client) { a[maphash.String(addressSeed, c.Addr)] = struct{}{} }

// hasNew reports whether any client has logged in since the look before. Only one look is kept, so that a console cannot fill the memory
// with ever new clients.
func (a addresses) hasNew(before addresses) bool {
	for address := range a {
		if _, known := before[address]; !known {
			return true
		}
	}
	return false
}

// reportAborted records the transactions that were aborted, or may yet be.
func (r *run) reportAborted(when string) {
	kind := "transaction"
	if r.load.sessions {
		kind = "session or transaction"
	}
	if r.load.inFlight != 1 {
		kind += "s"
	}
	r.result.AbortedTransactions = r.load.inFlight
	r.result.AbortedDetail = fmt.Sprintf("%d %s open %s", r.load.inFlight, kind, when)
	r.log.Warn("transactions still open at timeout", "aborted", r.result.AbortedDetail)
}

// reportHeldBack records how long new transactions had to wait.
func (r *run) reportHeldBack() {
	if since := r.stop.heldSince; !since.IsZero() && r.result.HeldBackSeconds == 0 {
		r.result.HeldBackAt, r.result.HeldBackSeconds = since, math.Round(time.Since(since).Seconds()*1000)/1000
	}
}
