package termination

import (
	"errors"
	"fmt"
	"strings"

	"quiesce/internal/drain"
)

// The function's errors. The Lambda runtime reports the name of the type as errorType, so that the names are part of what
// callers rely on.

// Malformed is the error of an event that no retry can mend.
type Malformed struct{ Reason error }

func (e *Malformed) Error() string { return "malformed event: " + e.Reason.Error() }
func (e *Malformed) Unwrap() error { return e.Reason }

// Incomplete is the error of a slice that ended before the node was empty: the lifecycle action was not completed, and
// the next invocation goes on.
type Incomplete struct{ Report Report }

// maxNamedPods bounds how many pods an error's text names; the log has them all.
const maxNamedPods = 5

func (e *Incomplete) Error() string {
	remaining := e.Report.Remaining()
	names := make([]string, 0, maxNamedPods)
	for _, pod := range remaining[:min(maxNamedPods, len(remaining))] {
		names = append(names, describe(pod))
	}
	text := fmt.Sprintf("drain of %s (%s) is incomplete: ", e.Report.Node, e.Report.InstanceID)
	if len(remaining) == 0 {
		return text + e.Report.Reason
	}
	return text + fmt.Sprintf("%d pods remain: %s", len(remaining), strings.Join(names, "; "))
}

func describe(p drain.PodReport) string {
	if p.Reason == "" {
		return fmt.Sprintf("%s/%s %s", p.Namespace, p.Name, p.Outcome)
	}
	return fmt.Sprintf("%s/%s %s: %s", p.Namespace, p.Name, p.Outcome, p.Reason)
}

// Failed is the error of a step that went wrong: the operation says which.
type Failed struct{ Cause error }

func (e *Failed) Error() string { return e.Cause.Error() }
func (e *Failed) Unwrap() error { return e.Cause }

// ErrNoActiveAction is what Auto Scaling answers about an action that has ended, and also, for a moment, about one that has
// just begun: only the instance's state tells which.
var ErrNoActiveAction = errors.New("no active lifecycle action")

// ErrNoHook: the group has no hook of ours.
var ErrNoHook = errors.New("there is no such hook")
