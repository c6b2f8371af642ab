package poolers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"quiesce/test/env/worker/journal"
)

// Results are the workers' journals, compared with the database.
type Results struct {
	At         time.Time
	Workers    []journal.Worker
	Hanging    []int // numbers of hanging workers, before they were stopped
	Comparison journal.Comparison
}

// Finish stops the workers and compares their journals with the database. A worker hangs if it does not commit once more within hangsAfter,
// beside its own pace.
func (t *Fixture) Finish(ctx context.Context, hangsAfter time.Duration) (b Results, err error) {
	if b.Hanging, err = t.hanging(ctx, hangsAfter); err != nil {
		return b, err
	}
	for _, c := range t.Workers {
		if err := c.Stop(ctx); err != nil {
			return b, err
		}
	}
	last, err := t.awaitStopped(ctx, b.Hanging, hangsAfter)
	if err != nil {
		return b, err
	}
	rows, err := t.DB.Rows(ctx)
	if err != nil {
		return b, err
	}
	b.At, b.Workers, b.Comparison = last.Now, last.Workers, journal.Compare(last.Workers, rows)
	return b, nil
}

// hanging waits until every worker has committed once more, and returns the numbers of those that have not in time.
func (t *Fixture) hanging(ctx context.Context, hangsAfter time.Duration) (numbers []int, err error) {
	first, err := t.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	for began := time.Now(); ; {
		now, err := t.Snapshot(ctx)
		if err != nil {
			return nil, err
		}
		numbers = nil
		waiting := false
		for i, w := range now.Workers {
			if w.State != journal.Stopped && w.Committed == first.Workers[i].Committed {
				numbers = append(numbers, w.Worker)
				waiting = waiting || time.Since(began) < hangsAfter+w.Pace
			}
		}
		if !waiting {
			return numbers, nil
		}
		if err := Wait(ctx, snapshotInterval); err != nil {
			return nil, err
		}
	}
}

// awaitStopped returns the first snapshot in which all workers have stopped. It waits for each worker as long as it may take for a commit, and
// for one that hangs no longer than stopTimeout.
func (t *Fixture) awaitStopped(ctx context.Context, hanging []int, hangsAfter time.Duration) (journal.Snapshot, error) {
	began := time.Now()
	for {
		s, err := t.Snapshot(ctx)
		took := time.Since(began)
		busy := slices.ContainsFunc(s.Workers, func(w journal.Worker) bool {
			limit := hangsAfter
			if slices.Contains(hanging, w.Worker) {
				limit = stopTimeout
			}
			return w.State != journal.Stopped && took < limit+w.Pace
		})
		if err != nil || !busy {
			return s, err
		}
		if err := Wait(ctx, snapshotInterval); err != nil {
			return s, err
		}
	}
}

// Sum sums up a count over the workers.
func (b Results) Sum(of func(journal.Worker) int) (sum int) {
	for _, w := range b.Workers {
		sum += of(w)
	}
	return sum
}

// Errors lists the workers that saw errors or have not stopped: what each one does, and its last error.
func (b Results) Errors() string {
	var text strings.Builder
	for _, w := range b.Workers {
		if w.LastError != "" || w.State != journal.Stopped {
			fmt.Fprintf(&text, "worker %d: %s for %s, %d at BEGIN, %d at connecting, aborted %v, ambiguous %v, last: %s; ",
				w.Worker, w.State, b.At.Sub(w.Since).Round(time.Millisecond), w.BeginErrors, w.ConnectErrors, w.Aborted, w.Ambiguous, w.LastError)
		}
	}
	return text.String()
}

// Refused returns how many connects failed, after each worker's first connection.
func (b Results) Refused() int { return b.Sum(func(w journal.Worker) int { return w.ConnectErrors }) }

// Closed returns how many connections were closed between transactions and failed at BEGIN.
func (b Results) Closed() int { return b.Sum(func(w journal.Worker) int { return w.BeginErrors }) }

// ClosedOnCareful returns how many of these were of workers that recycle or validate their connections.
func (b Results) ClosedOnCareful() int {
	return b.Sum(func(w journal.Worker) int {
		if !w.Careful {
			return 0
		}
		return w.BeginErrors
	})
}

// Interrupted returns how many transactions were interrupted, including those of hanging workers.
func (b Results) Interrupted() int {
	return b.Comparison.Aborted + b.Comparison.Ambiguous + b.Comparison.InFlight
}

// Inconsistent returns how many transactions the database and the workers disagree about.
func (b Results) Inconsistent() int {
	return b.Comparison.Lost + b.Comparison.Repeated + b.Comparison.Unexpected
}

// minStragglerPace is longer than a round of any worker but a straggler.
const minStragglerPace = time.Second

// LongestStall returns the longest stall of the workers that neither hang nor are stragglers, less their own pace.
func (b Results) LongestStall() time.Duration { return LongestStall(b.Workers) }

// LongestStall returns the longest stall of the workers that neither hang nor are stragglers, less their own pace.
func LongestStall(workers []journal.Worker) (longest time.Duration) {
	return slices.Max(append(Waits(workers), 0))
}

// Waits returns the longest stall of each worker that neither hangs nor is a straggler, less its own pace: how long each client waited.
func Waits(workers []journal.Worker) (waits []time.Duration) {
	for _, w := range workers {
		if w.InFlight == 0 && w.Pace < minStragglerPace {
			waits = append(waits, w.LongestStall-w.Pace)
		}
	}
	return waits
}

// Connects returns how many connections workers made, their first ones included.
func Connects(workers []journal.Worker) (sum int) {
	for _, w := range workers {
		sum += w.Connects
	}
	return sum
}
