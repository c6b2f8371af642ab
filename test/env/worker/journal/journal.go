// Package ledger is what workers say of themselves, and the arithmetic that holds it against what others see: which of them
// hang, and whether the database has what they believe it has.
package journal

import "time"

// State is what a worker is doing.
type State string

// The states of a worker, in the order of its round.
const (
	Connecting State = "connecting"
	Beginning  State = "beginning" // also while it validates its connection
	Working    State = "working"   // between BEGIN and COMMIT
	Committing State = "committing"
	Thinking   State = "thinking" // between transactions
	Stopped    State = "stopped"  // as it was told to: its ledger is final
)

// Snapshot is the answer of GET /workers. Now is the workers' own clock, which their other times are to be measured by.
type Snapshot struct {
	Now     time.Time `json:"now"`
	Workers []Worker  `json:"workers"`
}

// Worker is one worker's ledger.
//
// Each attempt at a transaction takes the next number, which is never used again. So the numbers from 1 to Last are divided,
// without a rest, among Skipped, Aborted, Ambiguous, InFlight, and the committed, which are all the others and Committed many.
type Worker struct {
	Worker int       `json:"worker"`
	State  State     `json:"state"`
	Since  time.Time `json:"since"` // of the state

	Committed int     `json:"committed"`          // how many
	Last      int64   `json:"last"`               // the highest number taken
	InFlight  int64   `json:"inFlight,omitempty"` // the number of the transaction under way
	Skipped   []int64 `json:"skipped"`            // failed at BEGIN: nothing was executed
	Aborted   []int64 `json:"aborted"`            // failed after BEGIN and before COMMIT
	Ambiguous []int64 `json:"ambiguous"`          // failed at COMMIT: nobody told the worker whether it was done

	BeginErrors   int    `json:"beginErrors"`
	ConnectErrors int    `json:"connectErrors"`
	Connects      int    `json:"connects"` // connections made
	Silent        int    `json:"silent"`   // dead connections that validation found, and the worker's job did not
	LastError     string `json:"lastError,omitempty"`

	Started      time.Time     `json:"started"`
	LastCommit   time.Time     `json:"lastCommit,omitzero"`
	Careful      bool          `json:"careful"`      // it recycles or validates its connections
	Pace         time.Duration `json:"pace"`         // nanoseconds that a round of it takes by itself: hold and think time
	LongestStall time.Duration `json:"longestStall"` // nanoseconds, the longest between two successes since it was last forgotten; one that still runs counts
}

// LastSuccess is when the worker last got something done, or began.
func (w Worker) LastSuccess() time.Time {
	if w.LastCommit.IsZero() {
		return w.Started
	}
	return w.LastCommit
}

// Hanging lists the workers without a success for longer than after, and than their own pace explains. What state a worker
// is in does not tell: one that fails and connects without end changes its state all the time.
func Hanging(s Snapshot, after time.Duration) []int {
	var hanging []int
	for _, w := range s.Workers {
		if w.State != Stopped && s.Now.Sub(w.LastSuccess()) > after+w.Pace {
			hanging = append(hanging, w.Worker)
		}
	}
	return hanging
}
