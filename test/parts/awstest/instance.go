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

// retainedFrom is where the state of waiting leads if the action is abandoned and the group retains such instances
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/instance-lifecycle-policy-manage-retained.html).
var retainedFrom = map[string]string{
	stateWait: stateRetained, stateWarmedPendingWait: "Warmed:Pending:Retained", stateWarmedTerminatingWait: "Warmed:Terminating:Retained",
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
	switch state := i.stateAt(at); {
	case i.nextToExpire() != nil:
	case result == Abandon && i.group.retains && retainedFrom[state] != "":
		i.enter(retainedFrom[state], at)
	case state == stateWarmedPendingWait:
		i.enter(stateWarmedPendingProceed, at)
		i.enter(stateWarmedStopped, at.Add(proceed))
	case state == stateWarmedTerminatingWait:
		i.enter(stateWarmedTerminatingProceed, at)
		i.enter(stateGone, at.Add(proceed))
	default:
		i.enter(stateProceed, at)
		i.enter(stateGone, at.Add(proceed))
	}
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
