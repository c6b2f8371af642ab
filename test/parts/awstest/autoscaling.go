package awstest

import "time"

var autoScalingActions = map[string]action{
	"CompleteLifecycleAction":             completeAction,
	"DeleteLifecycleHook":                 deleteHook,
	"DescribeAutoScalingGroups":           describeGroups,
	"DescribeAutoScalingInstances":        describeInstancesOfGroups,
	"DescribeLifecycleHooks":              describeHooks,
	"DescribeScalingActivities":           describeActivities,
	"DescribeWarmPool":                    describeWarmPool,
	"PutLifecycleHook":                    putHook,
	"RecordLifecycleActionHeartbeat":      recordHeartbeat,
	"TerminateInstanceInAutoScalingGroup": terminateInstance,
}

// tokenLength is the length of a UUID. AWS rejects other tokens before it looks for them.
const tokenLength = 36

func recordHeartbeat(a *account, r request) (any, *apiError) {
	i, action, failure := a.addressed(r)
	if failure != nil {
		return nil, failure
	}
	now := time.Now()
	action.lastBeat = now
	i.heartbeats = append(i.heartbeats, now)
	return struct{}{}, nil
}

func completeAction(a *account, r request) (any, *apiError) {
	result := r.params.Get("LifecycleActionResult")
	if result != Continue && result != Abandon {
		return nil, invalid("Lifecycle Action Result must be either %s or %s", Continue, Abandon)
	}
	i, action, failure := a.addressed(r)
	if failure != nil {
		return nil, failure
	}
	now := time.Now()
	i.completions = append(i.completions, Completion{action.hook.Name, action.token, result, now, r.sess.Name})
	i.finish(action, result, now, a.proceed)
	return struct{}{}, nil
}

// addressed returns the active lifecycle action that a call names by token, instance ID, or both.
func (a *account) addressed(r request) (*instance, *lifecycleAction, *apiError) {
	g, failure := a.groupOf(r)
	if failure != nil {
		return nil, nil, failure
	}
	hook, token, id := r.params.Get("LifecycleHookName"), r.params.Get("LifecycleActionToken"), r.params.Get("InstanceId")
	if failure := checkAddress(g, hook, token, id); failure != nil {
		return nil, nil, failure
	}
	if r.params.Has("LifecycleActionToken") && len(token) != tokenLength {
		return nil, nil, invalid("1 validation error detected: Value '%s' at 'lifecycleActionToken' failed to satisfy constraint: "+
			"Member must have length equal to %d", token, tokenLength)
	}
	for _, i := range g.instances {
		if id != "" && i.ID != id {
			continue
		}
		if action := a.instance(i.ID).active(hook, token); action != nil {
			return i, action, nil
		}
	}
	return nil, nil, noActiveAction(token, id)
}

// checkAddress rejects requests that cannot name an action. AWS documents the rejection, but not its text.
func checkAddress(g *group, hook, token, id string) *apiError {
	switch {
	case g.hook(hook) == nil:
		return invalid("Lifecycle hook %s not found in group %s", hook, g.name)
	case token == "" && id == "":
		return invalid("Either a lifecycle action token or an instance ID must be given")
	}
	return nil
}

func noActiveAction(token, id string) *apiError {
	if token != "" {
		return invalid("No active Lifecycle Action found with token %s", token)
	}
	return invalid("No active Lifecycle Action found with instance ID %s", id)
}

func (a *account) groupOf(r request) (*group, *apiError) {
	name := r.params.Get("AutoScalingGroupName")
	g := a.group(name)
	if g == nil {
		return nil, invalid("AutoScalingGroup name not found - AutoScalingGroup %s not found", name)
	}
	return g, nil
}
