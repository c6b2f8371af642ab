package awstest

import (
	"cmp"
	"time"
)

const (
	// Terminating is the transition of hooks that hold a terminating instance. It is the default of a Hook.
	Terminating = "autoscaling:EC2_INSTANCE_TERMINATING"
	// Launching is the transition of hooks that hold a launching instance.
	Launching = "autoscaling:EC2_INSTANCE_LAUNCHING"

	// Continue and Abandon are the results of a lifecycle action.
	Continue = "CONTINUE"
	// Abandon also ends the other hooks of the instance.
	Abandon = "ABANDON"

	// The limits of a hook (PutLifecycleHook, Auto Scaling API reference).
	defaultHeartbeat   = time.Hour
	globalLimit        = 48 * time.Hour
	globalPerHeartbeat = 100
)

// Hook is a lifecycle hook. Zero fields get the defaults of AWS: the terminating transition, an hour between heartbeats, 100
// times that but at most 48 hours in all, ABANDON. Timeouts may be shorter than AWS allows; descriptions round them up to whole
// seconds.
type Hook struct {
	Name             string
	Transition       string
	HeartbeatTimeout time.Duration
	GlobalTimeout    time.Duration
	DefaultResult    string
	Metadata         string // NotificationMetadata; the hook's events have it too
}

func (h Hook) withDefaults() Hook {
	h.Transition = cmp.Or(h.Transition, Terminating)
	h.HeartbeatTimeout = cmp.Or(h.HeartbeatTimeout, defaultHeartbeat)
	h.GlobalTimeout = cmp.Or(h.GlobalTimeout, min(globalLimit, globalPerHeartbeat*h.HeartbeatTimeout))
	h.DefaultResult = cmp.Or(h.DefaultResult, Abandon)
	return h
}

// lifecycleAction is one hook that holds one instance once. Its token names it.
type lifecycleAction struct {
	hook            Hook
	token           string
	began, lastBeat time.Time // lastBeat: the last heartbeat, or the start
	done            bool
}

func (a *lifecycleAction) expires() time.Time {
	heartbeat, global := a.lastBeat.Add(a.hook.HeartbeatTimeout), a.began.Add(a.hook.GlobalTimeout)
	if heartbeat.Before(global) {
		return heartbeat
	}
	return global
}
