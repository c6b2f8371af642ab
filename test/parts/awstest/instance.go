package awstest

import (
	"strings"
	"time"
)

// Lifecycle states (Auto Scaling user guide, "Amazon EC2 Auto Scaling instance lifecycle").
const (
	stateInService   = "InService"
	stateTerminating = "Terminating"
	stateWait        = "Terminating:Wait"
	stateProceed     = "Terminating:Proceed"
	stateRetained    = "Terminating:Retained"
	stateGone        = ""

	stateWarmedPendingWait        = "Warmed:Pending:Wait" // on its way to the warm pool
	stateWarmedPendingProceed     = "Warmed:Pending:Proceed"
	stateWarmedStopped            = "Warmed:Stopped"
	stateWarmedTerminatingWait    = "Warmed:Terminating:Wait"
	stateWarmedTerminatingProceed = "Warmed:Terminating:Proceed"
)

// departure is how an instance goes on from a state of waiting. It enters proceed at once, and then end or
// retained, after the account's termination delay.
type departure struct{ proceed, end, retained string }

// departures has the states of waiting. An instance is retained if its action is abandoned and its group retains such instances
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/manage-retained-instances.html).
var departures = map[string]departure{
	stateWait:                  {stateProceed, stateGone, stateRetained},
	stateWarmedPendingWait:     {stateWarmedPendingProceed, stateWarmedStopped, "Warmed:Pending:Retained"},
	stateWarmedTerminatingWait: {stateWarmedTerminatingProceed, stateGone, "Warmed:Terminating:Retained"},
}

// Instance is an EC2 instance of a group.
type Instance struct {
	ID, Zone, PrivateDNS, PrivateIP string
	IPv6                            []string // of its network interface
	LaunchedAt                      time.Time
	Spot                            bool
	SecurityGroups                  []string // of its network interface
}

type instance struct {
	Instance
	group       *group
	history     []change // oldest first; the last may be in the future
	actions     []*lifecycleAction
	completions []Completion
	heartbeats  []time.Time
	expired     bool
	spotStatus  string    // the status code of its Spot request
	spotUpdated time.Time // when it was set
	protected   bool      // from scale-in
	stopped     *ec2State // nil: it follows from Auto Scaling's state
	stopReason  string    // EC2's code
	scheduled   []ScheduledEvent
}

// isWarm reports whether an instance in this state is in a warm pool.
func isWarm(state string) bool { return strings.HasPrefix(state, "Warmed:") }

// isRetained reports whether an instance in this state runs on after its termination was abandoned.
func isRetained(state string) bool { return strings.HasSuffix(state, ":Retained") }

// isProceeding reports whether an instance in this state is past its termination hooks. Instances that launch, or whose root volume is
// replaced, proceed too, and do not terminate.
func isProceeding(state string) bool {
	return state == stateProceed || state == stateWarmedTerminatingProceed
}

// isOver reports whether the instance is past its termination hooks at a time.
func (i *instance) isOver(t time.Time) bool {
	return i.stateAt(t) == stateGone || isProceeding(i.stateAt(t))
}

// isShuttingDown reports whether it is past its termination hooks, and nothing retains it.
func (i *instance) isShuttingDown(t time.Time) bool {
	return isProceeding(i.stateAt(t)) && !isRetained(i.last())
}

// last returns the state that it has entered last, or is about to.
func (i *instance) last() string { return i.history[len(i.history)-1].state }

// change is when an instance entered a state.
type change struct {
	at    time.Time
	state string
}

func (i *instance) stateAt(t time.Time) string {
	state := stateGone
	for _, c := range i.history {
		if c.at.After(t) {
			break
		}
		state = c.state
	}
	return state
}

// enter sets the instance's state at a time, and drops later changes.
func (i *instance) enter(state string, at time.Time) {
	for n := len(i.history); n > 0 && i.history[n-1].at.After(at); n = len(i.history) {
		i.history = i.history[:n-1]
	}
	i.history = append(i.history, change{at, state})
}

// advance gives each action that has expired by now its default result, in order of expiry.
func (i *instance) advance(now time.Time, proceed time.Duration) {
	for {
		next := i.nextToExpire()
		if next == nil || next.expires().After(now) {
			return
		}
		i.expired = true
		i.finish(next, next.hook.DefaultResult, next.expires(), proceed)
	}
}

func (i *instance) nextToExpire() *lifecycleAction {
	var first *lifecycleAction
	for _, a := range i.actions {
		if !a.done && (first == nil || a.expires().Before(first.expires())) {
			first = a
		}
	}
	return first
}

// finish gives an action its result. Once no hook holds the instance, it terminates, or enters the warm pool. For terminations, CONTINUE
// and ABANDON differ only in two ways: ABANDON does not wait for the other hooks, and a group may retain abandoned instances.
func (i *instance) finish(a *lifecycleAction, result string, at time.Time, proceed time.Duration) {
	a.done = true
	if result == Abandon {
		i.release()
	}
	if i.nextToExpire() != nil {
		return
	}
	next, known := departures[i.stateAt(at)]
	if !known {
		next = departures[stateWait]
	}
	if result == Abandon && i.group.retains && known {
		next.end = next.retained
	}
	i.enter(next.proceed, at)
	i.enter(next.end, at.Add(proceed))
}

// release ends all actions without a result.
func (i *instance) release() {
	for _, a := range i.actions {
		a.done = true
	}
}

// active returns the action that a call addresses: by token, or by hook if no token is given.
func (i *instance) active(hook, token string) *lifecycleAction {
	for _, a := range i.actions {
		if !a.done && a.hook.Name == hook && (token == "" || a.token == token) {
			return a
		}
	}
	return nil
}

// waits reports whether hooks can hold an instance in this state.
func waits(state string) bool {
	return state == stateTerminating || strings.HasSuffix(state, ":Wait")
}
