// Package journal is what workers record of their transactions, which of them hang, and the comparison of their records with the
// database.
package journal

import "time"

// State is what a worker is doing.
type State string

// The states of a worker, in order.
const (
	Connecting State = "connecting"
	Beginning  State = "beginning" // also while it validates its connection
	Working    State = "working"   // between BEGIN and COMMIT
	Committing State = "committing"
	Thinking   State = "thinking" // between transactions
	Stopped    State = "stopped"  // on request: its journal is final
)

// Snapshot is the answer to GET /workers. Now is the workers' clock, to which their other times refer.
type Snapshot struct {
	Now     time.Time `json:"now"`
	Workers []Worker  `json:"workers"`
}

// Worker is one worker's journal.
//
// Each transaction takes the next number, which is never used again. So each number from 1 to Last is in Skipped, Aborted or
// Ambiguous, is InFlight, or was committed; Committed counts the latter.
type Worker struct {
	Worker int       `json:"worker"`
	State  State     `json:"state"`
	Since  time.Time `json:"since"` // when the state began

	Committed int     `json:"committed"`          // how many transactions
	Last      int64   `json:"last"`               // the highest number taken
	InFlight  int64   `json:"inFlight,omitempty"` // the number of the transaction in progress
	Skipped   []int64 `json:"skipped"`            // failed at BEGIN: nothing was executed
	Aborted   []int64 `json:"aborted"`            // failed after BEGIN and before COMMIT
	Ambiguous []int64 `json:"ambiguous"`          // failed at COMMIT: the worker does not know whether it was committed

	BeginErrors   int    `json:"beginErrors"`
	ConnectErrors int    `json:"connectErrors"` // since its first connection
	Connects      int    `json:"connects"`      // connections made
	Silent        int    `json:"silent"`        // dead connections that validation found before the worker's transaction did
	LastError     string `json:"lastError,omitempty"`

	Started      time.Time     `json:"started"`
	LastCommit   time.Time     `json:"lastCommit,omitzero"`
	Careful      bool          `json:"careful"`      // it recycles or validates its connections
	Pace         time.Duration `json:"pace"`         // nanoseconds that a round takes by itself: hold and think time
	LongestStall time.Duration `json:"longestStall"` // nanoseconds, the longest time between two commits since the last reset, including the present one
}

// LastSuccess returns when the worker last committed, or started.
func (w Worker) LastSuccess() time.Time {
	if w.LastCommit.IsZero() {
		return w.Started
	}
	return w.LastCommit
}

// Hanging lists the workers without a commit for longer than after plus their own pace. The state does not help: a worker that
// fails and reconnects in a loop changes its state all the time.
func Hanging(s Snapshot, after time.Duration) []int {
	var hanging []int
	for _, w := range s.Workers {
		if w.State != Stopped && s.Now.Sub(w.LastSuccess()) > after+w.Pace {
			hanging = append(hanging, w.Worker)
		}
	}
	return hanging
}
