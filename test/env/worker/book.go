package main

import (
	"slices"
	"sync"
	"time"

	"quiesce/test/env/worker/ledger"
)

// book keeps one worker's ledger, for others to read while the worker works.
type book struct {
	mu sync.Mutex
	ledger.Worker
}

func newBook(number int, h habits) *book {
	now := time.Now()
	return &book{Worker: ledger.Worker{
		Worker: number, State: ledger.Connecting, Since: now, Started: now, Careful: h.validate || h.recycle > 0, Pace: h.hold + h.think,
		Skipped: []int64{}, Aborted: []int64{}, Ambiguous: []int64{}, // lists in JSON even when they are empty
	}}
}

// write changes the ledger.
func (b *book) write(change func(*ledger.Worker)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.Worker)
}

func (b *book) enter(state ledger.State) {
	b.write(func(w *ledger.Worker) {
		if w.State != state {
			w.State, w.Since = state, time.Now()
		}
	})
}

func (b *book) connected() {
	b.write(func(w *ledger.Worker) { w.Connects++ })
}

func (b *book) unconnected(err error) {
	b.write(func(w *ledger.Worker) { w.ConnectErrors++; w.LastError = err.Error() })
}

func (b *book) invalid(err error) {
	b.write(func(w *ledger.Worker) { w.Silent++; w.LastError = err.Error() })
}

// next takes the number of a new attempt.
func (b *book) next() (n int64) {
	b.write(func(w *ledger.Worker) {
		w.Last++
		w.InFlight = w.Last
		n = w.Last
	})
	return n
}

func (b *book) commit() {
	b.write(func(w *ledger.Worker) {
		now := time.Now()
		w.LongestStall = max(w.LongestStall, now.Sub(w.LastSuccess()))
		w.LastCommit, w.InFlight = now, 0
		w.Committed++
	})
}

// fail books the attempt by the state in which it failed.
func (b *book) fail(err error) {
	b.write(func(w *ledger.Worker) {
		switch w.State {
		case ledger.Beginning:
			w.BeginErrors++
			w.Skipped = append(w.Skipped, w.InFlight)
		case ledger.Working:
			w.Aborted = append(w.Aborted, w.InFlight)
		case ledger.Committing:
			w.Ambiguous = append(w.Ambiguous, w.InFlight)
		}
		w.InFlight, w.LastError = 0, err.Error()
	})
}

// read copies the ledger as of now. The stall that still runs counts.
func (b *book) read(now time.Time) ledger.Worker {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.Worker
	w.Skipped, w.Aborted, w.Ambiguous = slices.Clone(w.Skipped), slices.Clone(w.Aborted), slices.Clone(w.Ambiguous)
	if w.State != ledger.Stopped {
		w.LongestStall = max(w.LongestStall, now.Sub(w.LastSuccess()))
	}
	return w
}
