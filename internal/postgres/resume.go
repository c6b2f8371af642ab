package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

const (
	// resumeStep bounds each step with which a pooler is paused or resumed; resumeInterval is between two attempts to resume it. A healthy
	// console answers in milliseconds, and clients wait. One that takes a second for each command is still resumed.
	resumeStep     = 3 * time.Second
	resumeInterval = 500 * time.Millisecond
	// resumeTime bounds all attempts for one pooler. A process that was stopped or starved for a while is still met. After that the mark
	// stays, and the sweep goes on.
	resumeTime = 20 * time.Second
	// clustersAtOnce bounds the clusters whose poolers are resumed at once. One pooler that hangs costs its cluster resumeTime, and must not
	// delay the others. More would open so many consoles and Leases together that the rest of a sweep is slow.
	clustersAtOnce = 16
)

// resumer resumes poolers.
type resumer struct {
	cluster   escort.Inspector
	poolers   PoolerConsoles
	log       *slog.Logger
	takenOver func(context.Context) bool // reports whether the poolers are left to a new holder of the Lease; nil: they cannot be
}

// errTakenOver ends an attempt: a RESUME could end the pause of the new holder.
var errTakenOver = errors.New("it is left to the new holder of the Lease")

// all resumes poolers in parallel, each on a fresh context, until it succeeds or the pooler is gone. It returns those that may still be
// paused. Consoles has those that are open.
func (r resumer) all(ctx context.Context, poolers []markedPooler, consoles map[drain.Ref]Console) (stillPaused []markedPooler) {
	failures := make([]error, len(poolers))
	var group sync.WaitGroup
	for i, p := range poolers {
		group.Go(func() { failures[i] = safely(func() error { return r.one(ctx, p, consoles[p.Ref]) }) })
	}
	group.Wait()
	for i, p := range poolers {
		if failures[i] != nil && !errors.Is(failures[i], errTakenOver) {
			r.log.Error("failed to resume pooler", "pooler", p.Ref.String(), "error", escort.Printable(failures[i].Error()))
			stillPaused = append(stillPaused, p)
		}
	}
	return stillPaused
}

// one resumes one pooler. Its pod's end ends a pause too. Where there is no login for the pooler, another attempt would have none either.
func (r resumer) one(ctx context.Context, p markedPooler, open Console) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTime)
	defer cancel()
	failure := errors.New("not tried")
	_ = escort.Poll(ctx, time.Now().Add(resumeTime), resumeInterval, func() (bool, error) {
		var gone bool
		if gone, failure = r.try(ctx, p, open); gone {
			failure = nil
		}
		open = nil
		noLogin := errors.Is(failure, escort.ErrNoLogin) || errors.Is(failure, escort.ErrOtherNamespace)
		return failure == nil || noLogin || errors.Is(failure, errTakenOver), nil
	})
	return failure
}

// try resumes every database of a pooler over an open console, or over a new one. It reports whether the pooler is gone.
func (r resumer) try(ctx context.Context, p markedPooler, open Console) (gone bool, err error) {
	if open == nil {
		var pod *escort.Pod
		err := step(ctx, func(ctx context.Context) (err error) { pod, err = r.cluster.Inspect(ctx, p.Ref); return err })
		if err != nil || pod == nil || pod.Finished {
			return err == nil, err
		}
		if err := step(ctx, func(ctx context.Context) (err error) { open, err = r.poolers.Open(ctx, *pod); return err }); err != nil {
			return false, err
		}
		defer open.Close()
	}
	var errs []error
	for _, database := range p.Databases {
		if !pgbouncer.IsPausable(database) {
			continue // it was never paused, and no command can name it
		}
		if r.takenOver != nil && r.takenOver(ctx) {
			return false, errTakenOver
		}
		err := step(ctx, func(ctx context.Context) error { return open.Resume(ctx, database) })
		if errors.Is(err, errStep) {
			return false, err // the next command would hang too
		}
		errs = append(errs, err)
	}
	if p.Retry != "" {
		if r.takenOver != nil && r.takenOver(ctx) {
			return false, errTakenOver
		}
		errs = append(errs, step(ctx, func(ctx context.Context) error { return open.SetLoginRetry(ctx, p.Retry) }))
	}
	return false, errors.Join(errs...)
}

var errStep = errors.New("no answer")

// step bounds one step of a pause, or of an attempt to resume. An attempt has as many steps as the pooler has databases, so it has no limit of its own.
func step(ctx context.Context, do func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, resumeStep)
	defer cancel()
	err := do(ctx)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w within %v: %w", errStep, resumeStep, err)
	}
	return err
}

// Resume finds the marks that are not held, and resumes the poolers that they name. It is for the sweep, for the delayed message that is
// sent before a PAUSE, and for people. A second call changes nothing. A cluster whose move is under way is left to it. Resumed are the
// clusters whose poolers are resumed now. Left reports whether a pooler was not reached, though that may be no error: it was resumed before,
// and is asked once more. The login of another phase may reach it.
func (e *Escort) Resume(ctx context.Context) (resumed []string, left bool, err error) {
	cluster, err := e.Connect(ctx)
	if err != nil {
		return nil, false, err
	}
	marks, err := cluster.Marks(ctx, LeasePrefix)
	if err != nil {
		return nil, false, fmt.Errorf("look for paused poolers: %w", err)
	}
	names, lefts, free := make([]string, len(marks)), make([]bool, len(marks)), make(chan struct{}, clustersAtOnce)
	var jobs []func() error
	for i, m := range marks {
		if m.Held || m.Text == "" {
			continue
		}
		jobs = append(jobs, func() (err error) {
			free <- struct{}{}
			defer func() { <-free }()
			if names[i], lefts[i], err = e.resumeMark(ctx, cluster, m.Lease); err != nil {
				return fmt.Errorf("resume the poolers of lease %s: %w", m.Lease, err)
			}
			return nil
		})
	}
	err = parallel(jobs)
	return slices.DeleteFunc(names, func(name string) bool { return name == "" }), slices.Contains(lefts, true), err
}

// Paused returns the clusters, as namespace/name, whose poolers may be paused: by a move that is under way, or by one that was interrupted. A mark
// that cannot be read has the name of its Lease.
func (e *Escort) Paused(ctx context.Context) (clusters []string, err error) {
	cluster, err := e.Connect(ctx)
	if err != nil {
		return nil, err
	}
	marks, err := cluster.Marks(ctx, LeasePrefix)
	if err != nil {
		return nil, fmt.Errorf("look for paused poolers: %w", err)
	}
	for _, found := range marks {
		switch m, err := readMark(found.Text); {
		case found.Text == "":
		case err != nil:
			clusters = append(clusters, found.Lease)
		case !m.Resumed:
			clusters = append(clusters, m.Namespace+"/"+m.Cluster)
		}
	}
	return clusters, nil
}

// resumeMark acquires the Lease, and resumes what its mark names. The name is empty if that was resumed before. Left reports whether a pooler was
// not reached.
func (e *Escort) resumeMark(ctx context.Context, cluster Cluster, lease string) (name string, left bool, err error) {
	held, err := cluster.AcquireMarkedLease(ctx, lease)
	if err != nil || held == nil {
		return "", false, err
	}
	defer e.release(held.Release)
	if held.Mark() == "" {
		return "", false, nil
	}
	c, err := e.clearMark(ctx, cluster, held)
	if err != nil || !c.first {
		return "", len(c.stillPaused) > 0, err
	}
	return c.mark.Namespace + "/" + c.mark.Cluster, len(c.stillPaused) > 0, nil
}

// cleared is what became of a mark.
type cleared struct {
	mark        *mark          // nil: it could not be read
	first       bool           // its poolers were not resumed before
	stillPaused []markedPooler // they were not reached
}

// clearMark resumes what the mark of a Lease names that this invocation holds. It is no error if a pooler is not reached that was resumed before.
// The mark of a move that did not end in order stays until lateTime is over: its process may have stood still, and pause a pooler when it goes on.
// Whoever takes the Lease until then resumes the same once more.
func (e *Escort) clearMark(ctx context.Context, cluster Cluster, held escort.MarkedLease) (cleared, error) {
	m, err := readMark(held.Mark())
	if err != nil {
		return cleared{}, err
	}
	withdraw(ctx, e.log(), cluster, m.failover())
	first := !m.Resumed
	m.interrupt()
	stillPaused := resumer{cluster, e.Consoles, e.log(), nil}.all(ctx, m.Poolers, nil)
	if first {
		defer e.tellRecovered(ctx, cluster, m, stillPaused)
	}
	err = held.SetMark(ctx, m.rest(stillPaused))
	if first && len(stillPaused) > 0 {
		err = errors.Join(fmt.Errorf("still paused: %s", namesOf(stillPaused)), err)
	}
	return cleared{m, first, stillPaused}, err
}

func namesOf(poolers []markedPooler) string {
	var names []string
	for _, p := range poolers {
		names = append(names, p.Ref.String())
	}
	slices.Sort(names)
	return drain.Names(names, maxNames)
}

// recover resumes what an earlier run of this drain recorded as paused. That run is over: this one holds the instance's Lease. If another
// move has begun since, its own holder resumes.
func (r *run) recover(ctx context.Context) error {
	if r.record == nil || len(r.record.Poolers) == 0 {
		return nil
	}
	name := clusterLease(Identity{Namespace: r.record.Namespace, Cluster: r.record.Cluster})
	// The Lease of an invocation that has just died is held still. Clients do not wait for its end.
	lease, unheld := r.cluster.AcquireMarkedLease(ctx, name)
	if unheld == nil && lease != nil {
		defer r.release(lease.Release)
	}
	marks, err := readMarks(ctx, r.cluster, name, saveTimeout)
	own := markOfMove(*r.record, marks)
	switch {
	case err != nil:
		return hold("cannot find out whether another move has begun: %v", err)
	case own != nil && (lease != nil || !own.Resumed && !isHeldSince(*own, marks)):
	case len(marks) > 0: // another holder resumes its poolers, or has, and may pause them then
		r.record.Poolers = nil
		return nil
	case unheld != nil:
		return hold("cannot acquire the Lease of its cluster, and poolers may still be paused: %v", unheld)
	case lease == nil: // its holder may be about to pause
		return hold("another process holds the Lease of its cluster, and poolers may still be paused: %s", namesOf(r.record.Poolers))
	}
	r.log.Warn("found an interrupted move, resuming its poolers first", "since", r.record.Since)
	withdraw(ctx, r.log, r.cluster, r.record.failover())
	found := *r.record
	var takenOver func(context.Context) bool
	var unseen error
	if lease == nil {
		takenOver = again(func(ctx context.Context) bool {
			marks, unseen = readMarks(ctx, r.cluster, name, glanceTime)
			own := markOfMove(found, marks)
			return unseen != nil || own == nil || own.Resumed || isHeldSince(*own, marks)
		})
	}
	r.record.Poolers = resumer{r.cluster, r.Consoles, r.log, takenOver}.all(ctx, found.Poolers, nil)
	if unseen != nil {
		r.record.Poolers = found.Poolers
		return hold("cannot find out whether another move has begun: %v", unseen)
	}
	defer r.tellRecovered(ctx, r.cluster, &found, r.record.Poolers)
	if len(r.record.Poolers) > 0 {
		return hold("poolers may still be paused: %s", namesOf(r.record.Poolers))
	}
	if err := r.request.Save(ctx, json.RawMessage(r.record.text()), r.record.OnlyCopy); err != nil {
		r.log.Warn("failed to record that poolers are resumed", "error", escort.Printable(err.Error()))
	}
	return nil
}
