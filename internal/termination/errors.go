package termination

import (
	"errors"
	"fmt"
	"strings"

	"quiesce/internal/drain"
)

// The function's errors. The Lambda runtime reports the name of the type as errorType, so callers rely on the names.

// Malformed is the error of an event that no retry can mend.
type Malformed struct{ Reason error }

func (e *Malformed) Error() string { return "malformed event: " + e.Reason.Error() }
func (e *Malformed) Unwrap() error { return e.Reason }

// Incomplete is the error of an invocation that ended before its drain did. The lifecycle action was not completed, and the next invocation
// continues.
type Incomplete struct{ Report Report }

// isHandedOff reports whether the error is that of a drain that the next invocation continues.
func isHandedOff(err error) bool {
	_, incomplete := errors.AsType[*Incomplete](err)
	return incomplete
}

// maxNamedPods bounds how many pods an error's text names. The log has all of them.
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

// Failed is the error of a step that went wrong. Its text names the step.
type Failed struct{ Cause error }

func (e *Failed) Error() string { return drain.Short(e.Cause.Error()) }
func (e *Failed) Unwrap() error { return e.Cause }

// ErrNoActiveAction is Auto Scaling's answer for an action that has ended and, for a moment, for one that has just begun. Only the
// instance's state tells which.
var ErrNoActiveAction = errors.New("no active lifecycle action")

// ErrNoHook is the error for a group that has no hook of ours.
var ErrNoHook = errors.New("there is no such hook")
