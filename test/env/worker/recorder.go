package main

import (
	"slices"
	"sync"
	"time"

	"quiesce/test/env/worker/journal"
)

// recorder keeps one worker's journal, which others can read while the worker works.
type recorder struct {
	mu sync.Mutex
	journal.Worker
}

func newRecorder(number int, h behavior) *recorder {
	now := time.Now()
	return &recorder{Worker: journal.Worker{
		Worker: number, State: journal.Connecting, Since: now, Started: now, Careful: h.validate || h.recycle > 0, Pace: h.hold + h.think,
		Skipped: []int64{}, Aborted: []int64{}, Ambiguous: []int64{}, // empty lists in JSON, not null
	}}
}

// update changes the journal.
func (b *recorder) update(change func(*journal.Worker)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.Worker)
}

func (b *recorder) enter(state journal.State) {
	b.update(func(w *journal.Worker) {
		if w.State != state {
			w.State, w.Since = state, time.Now()
		}
	})
}

func (b *recorder) connected() {
	b.update(func(w *journal.Worker) {
		if w.Connects++; w.Connects == 1 {
			w.LastError = ""
		}
	})
}

// connectFailed counts an error, unless the worker never was connected: it starts when the poolers are ready, and kube-proxy may need a
// second more to lead there.
func (b *recorder) connectFailed(err error) {
	b.update(func(w *journal.Worker) {
		if w.LastError = err.Error(); w.Connects > 0 {
			w.ConnectErrors++
		}
	})
}

func (b *recorder) validationFailed(err error) {
	b.update(func(w *journal.Worker) { w.Silent++; w.LastError = err.Error() })
}

// begin takes the number of a new transaction.
func (b *recorder) begin() (n int64) {
	b.update(func(w *journal.Worker) {
		w.Last++
		w.InFlight = w.Last
		n = w.Last
	})
	return n
}

func (b *recorder) commit() {
	b.update(func(w *journal.Worker) {
		now := time.Now()
		w.LongestStall = max(w.LongestStall, now.Sub(w.LastSuccess()))
		w.LastCommit, w.InFlight = now, 0
		w.Committed++
	})
}

// fail records the failure by the state in which it happened.
func (b *recorder) fail(err error) {
	b.update(func(w *journal.Worker) {
		switch w.State {
		case journal.Beginning:
			w.BeginErrors++
			w.Skipped = append(w.Skipped, w.InFlight)
		case journal.Working:
			w.Aborted = append(w.Aborted, w.InFlight)
		case journal.Committing:
			w.Ambiguous = append(w.Ambiguous, w.InFlight)
		}
		w.InFlight, w.LastError = 0, err.Error()
	})
}

// snapshot copies the journal as of now, with the present stall.
func (b *recorder) snapshot(now time.Time) journal.Worker {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.Worker
	w.Skipped, w.Aborted, w.Ambiguous = slices.Clone(w.Skipped), slices.Clone(w.Aborted), slices.Clone(w.Ambiguous)
	if w.State != journal.Stopped {
		w.LongestStall = max(w.LongestStall, now.Sub(w.LastSuccess()))
	}
	return w
}
