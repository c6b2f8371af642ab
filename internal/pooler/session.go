package pooler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

const (
	// findTimeout bounds the attempts to look at the pod, to open a console, and to save a record; findInterval is between them. An API server
	// that fails once must not cost transactions, but one that always fails must not keep the pod.
	findTimeout  = 5 * time.Second
	findInterval = 250 * time.Millisecond
	// selectorsMaxAge is how old the selectors may be that several steps share. One lookup costs a GET and three LISTs, and an
	// automatic surge needs the result three times within moments. After a wait they are read again: Services and PDBs may have changed.
	selectorsMaxAge = time.Second
)

// load counts a pooler's work.
type load struct {
	sessions bool // some client may hold its server connection for as long as it likes
	inFlight int  // open transactions, or sessions, when last counted
}

// selection holds the selectors of the pod, and when they were read.
type selection struct {
	escort.Selectors
	readAt time.Time // zero: never
}

// findPod connects to the cluster and looks at the pod. It reports false if the pod is gone.
func (r *run) findPod(ctx context.Context, ref drain.Ref) (exists bool, err error) {
	deadline := time.Now().Add(findTimeout)
	failure := escort.Poll(ctx, deadline, findInterval, func() (bool, error) {
		exists, err = r.inspect(ctx, ref)
		return err == nil, nil
	})
	if failure != nil && err != nil {
		return false, fmt.Errorf("inspect pod: %w", err)
	}
	return exists, failure
}

func (r *run) inspect(ctx context.Context, ref drain.Ref) (exists bool, err error) {
	r.seen = false
	if r.cluster == nil {
		cluster, err := r.Connect(ctx)
		if err != nil {
			return false, err
		}
		r.cluster = cluster
	}
	pod, err := inspect(ctx, r.cluster, ref)
	if err != nil || pod == nil {
		return false, err
	}
	if !maps.Equal(r.pod.Labels, pod.Labels) {
		r.selected = selection{} // labels decide what selects a pod
	}
	r.pod, r.seen = *pod, true
	return true, nil
}

// inspect returns the pod, nil if it is gone. An owner that Kubernetes cannot have counts as none: the pod's author wrote it.
func inspect(ctx context.Context, cluster Kubernetes, ref drain.Ref) (*escort.Pod, error) {
	pod, err := cluster.Inspect(ctx, ref)
	if err != nil || pod == nil {
		return nil, err
	}
	if pod.Ref != ref {
		return nil, fmt.Errorf("asked for pod %s and found %s", ref, pod.Ref)
	}
	if !pod.Owner.Valid() {
		pod.Owner = escort.Owner{}
	}
	return pod, nil
}

func (r *run) terminating() bool { return !r.pod.Deleted.IsZero() }

// selectors returns what selects the pod, at most selectorsMaxAge old.
func (r *run) selectors(ctx context.Context) (escort.Selectors, error) {
	if !r.selected.readAt.IsZero() && time.Since(r.selected.readAt) < selectorsMaxAge {
		return r.selected.Selectors, nil
	}
	readAt := time.Now()
	found, err := r.cluster.Selectors(ctx, r.ownedPod())
	if err == nil {
		r.selected = selection{found, readAt}
	}
	return found, err
}

// selectorsOrNone is selectors that logs an error and returns what was found all the same.
func (r *run) selectorsOrNone(ctx context.Context) escort.Selectors {
	found, err := r.selectors(ctx)
	if err != nil {
		r.log.Warn("failed to look up owner, Services and PDBs", "error", err.Error())
	}
	return found
}

// again repeats a step that fails for a reason that may pass. The last attempt begins within findTimeout, and before the drain's time is over.
// Nothing is changed yet: the pod would be evicted without draining, and every open transaction aborted.
func (r *run) again(ctx context.Context, mayPass func(error) bool, step func() error) (err error) {
	end := time.Now().Add(findTimeout)
	if deadline, limited := r.drainDeadline(ctx); limited {
		end = escort.Earlier(end, deadline)
	}
	_ = escort.Poll(ctx, end, findInterval, func() (bool, error) {
		err = step()
		return err == nil || !mayPass(err) || !time.Now().Before(end), nil
	})
	return err
}

// isUnreached reports whether a console or the API server was not reached, and another attempt may fare better. A console that did not answer has
// had its time. One that sends too much would do so again.
func isUnreached(err error) bool {
	return escort.IsUnreached(err) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, pgbouncer.ErrLimit)
}

// openConsole opens a console that accepts commands, and reads what the pooler is doing.
func (r *run) openConsole(ctx context.Context) error {
	return r.again(ctx, isUnreached, func() error { return r.openOnce(ctx) })
}

func (r *run) openOnce(ctx context.Context) error {
	ctx, cancel := escort.WithConsoleTimeout(ctx)
	defer cancel()
	console, err := r.ensureConsole(ctx)
	if err != nil {
		return err
	}
	if err := console.CheckCommands(ctx); err != nil { // before the eviction it must be known that the login may change settings
		return err
	}
	return r.readLoad(ctx)
}

// Errors of consoles that are not opened.
var (
	errReplaced  = errors.New("its pod is gone, and another one may have its name")
	errNoCluster = errors.New("no connection to the cluster to forward a port")
)

// ensureConsole returns the open console, or opens one. It looks first whether the pod is still there, unless that was seen since the console
// before: a tunnel is opened by name, and the next pod of a StatefulSet has the same.
func (r *run) ensureConsole(ctx context.Context) (*pgbouncer.Console, error) {
	if r.console != nil && r.console.Usable() {
		return r.console, nil
	}
	if !r.seen && r.ConnectVia == config.ViaPortForward {
		if r.cluster == nil {
			return nil, errNoCluster
		}
		pod, err := inspect(ctx, r.cluster, r.pod.Ref)
		if err != nil {
			return nil, fmt.Errorf("inspect pod: %w", escort.Temporary{Err: err})
		}
		if pod == nil {
			return nil, errReplaced
		}
	}
	r.seen = false
	console, err := r.consoles().Open(ctx, r.pod)
	if err != nil {
		return nil, err
	}
	r.console, r.version = console, console.Version()
	return console, nil
}

// consoles opens consoles as configured.
func (r *run) consoles() escort.Consoles {
	consoles := escort.Consoles{
		Dial: r.Dial, Logins: r.Logins, Port: func(p escort.Pod) int { return ConsolePort(r.Port, p) },
		TLS: pgbouncer.TLSMode(r.TLS), ServerName: r.ServerName, RootCAs: r.RootCAs,
	}
	if r.ConnectVia == config.ViaPortForward {
		consoles.Forwarder = r.cluster
	}
	return consoles
}

// readLoad reads what the pooler is doing, for the escort and for the report.
func (r *run) readLoad(ctx context.Context) error {
	pools, err := r.console.Pools(ctx)
	if err != nil {
		return err
	}
	r.load = load{sessions: pools.HasSessions(), inFlight: pools.InFlight()}
	r.result.Version = r.version.String()
	r.result.Clients, r.result.Transactions = pools.Clients(), pools.InFlight()
	return nil
}

// close closes the consoles. The commands that were sent stay in force.
func (r *run) close() {
	for _, console := range []*pgbouncer.Console{r.console, r.stop.second} {
		if console != nil {
			console.Close()
		}
	}
}
