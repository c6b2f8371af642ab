package awstest

import (
	"cmp"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// The limits of PutLifecycleHook
// (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_PutLifecycleHook.html).
const (
	minHeartbeat = 30
	maxHeartbeat = 7200
	maxHooks     = 50 // of one group
)

// hookName is the form of a hook's name.
var hookName = regexp.MustCompile(`^[A-Za-z0-9\-_/]{1,255}$`)

// putHook creates a hook, or updates the one of that name. An update changes what the request has. Actions that wait keep their
// settings: AWS documents nothing else.
func putHook(a *account, r request) (any, *apiError) {
	g, failure := a.groupOf(r)
	if failure != nil {
		return nil, failure
	}
	put := Hook{
		Name: r.params.Get("LifecycleHookName"), Transition: r.params.Get("LifecycleTransition"),
		DefaultResult: r.params.Get("DefaultResult"), Metadata: r.params.Get("NotificationMetadata"),
	}
	existing := g.hook(put.Name)
	if failure := checkHook(g, put, existing == nil, r.params.Get("HeartbeatTimeout")); failure != nil {
		return nil, failure
	}
	timeout, _ := strconv.Atoi(r.params.Get("HeartbeatTimeout"))
	put.HeartbeatTimeout = time.Duration(timeout) * time.Second
	if existing == nil {
		g.hooks = append(g.hooks, put.withDefaults())
		return struct{}{}, nil
	}
	put.Transition = cmp.Or(put.Transition, existing.Transition)
	put.HeartbeatTimeout = cmp.Or(put.HeartbeatTimeout, existing.HeartbeatTimeout)
	put.DefaultResult = cmp.Or(put.DefaultResult, existing.DefaultResult)
	put.Metadata = cmp.Or(put.Metadata, existing.Metadata)
	*existing = put.withDefaults()
	return struct{}{}, nil
}

func checkHook(g *group, put Hook, isNew bool, timeout string) *apiError {
	switch n, err := strconv.Atoi(timeout); {
	case g.deleting:
		return invalid("AutoScalingGroup %s is pending delete", g.name)
	case !hookName.MatchString(put.Name):
		return invalid("Value '%s' at 'lifecycleHookName' failed to satisfy constraint", put.Name)
	case isNew && put.Transition == "" || put.Transition != "" && put.Transition != Terminating && put.Transition != Launching:
		return invalid("Lifecycle transition must be either %s or %s", Launching, Terminating)
	case put.DefaultResult != "" && put.DefaultResult != Continue && put.DefaultResult != Abandon:
		return invalid("Default Result must be either %s or %s", Continue, Abandon)
	case timeout != "" && (err != nil || n < minHeartbeat || n > maxHeartbeat):
		return invalid("Heartbeat Timeout must be between %d and %d seconds", minHeartbeat, maxHeartbeat)
	case isNew && len(g.hooks) == maxHooks:
		return refused(http.StatusBadRequest, "LimitExceeded", "The group has the maximum number of lifecycle hooks.")
	}
	return nil
}

// deleteHook deletes a hook. The actions that wait on it are completed first, with CONTINUE for terminating instances
// (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DeleteLifecycleHook.html). The page does not say what happens if there
// is no such hook.
func deleteHook(a *account, r request) (any, *apiError) {
	g, failure := a.groupOf(r)
	if failure != nil {
		return nil, failure
	}
	name := r.params.Get("LifecycleHookName")
	if g.hook(name) == nil {
		return nil, invalid("Lifecycle hook %s not found in group %s", name, g.name)
	}
	g.hooks = slices.DeleteFunc(g.hooks, func(h Hook) bool { return h.Name == name })
	for _, i := range g.instances {
		if action := a.instance(i.ID).active(name, ""); action != nil {
			i.finish(action, Continue, time.Now(), a.proceed)
		}
	}
	return struct{}{}, nil
}
