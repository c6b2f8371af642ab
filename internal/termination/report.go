package termination

import (
	"slices"
	"time"

	"quiesce/internal/drain"
)

// Report is the answer to an event: what was done about one instance, and why.
type Report struct {
	Status          Status    `json:"status"`
	InstanceID      string    `json:"instanceId,omitempty"`
	Node            string    `json:"node,omitempty"`
	Group           string    `json:"group,omitempty"`
	Hook            string    `json:"hook,omitempty"`
	Trigger         Trigger   `json:"trigger,omitempty"`         // why EC2 reclaims the instance; empty: a lifecycle action
	LifecycleResult Result    `json:"lifecycleResult,omitempty"` // that completed the lifecycle action; empty: it was not completed
	Reason          string    `json:"reason"`
	StartedAt       time.Time `json:"startedAt,omitzero"`
	Deadline        time.Time `json:"deadline,omitzero"`
	FinishedAt      time.Time `json:"finishedAt,omitzero"`
	drain.Report
	// ScheduledChanges of our instances. After an AWS Health event only.
	ScheduledChanges        []ScheduledChange `json:"scheduledChanges,omitempty"`
	ScheduledChangesOmitted int               `json:"scheduledChangesOmitted,omitempty"`

	Plan    *PlanReport `json:"plan,omitempty"`    // of a plan only
	Omitted string      `json:"omitted,omitempty"` // what was left out, because the report is too long
	Version string      `json:"version,omitempty"` // of the function that made the report
	Commit  string      `json:"commit,omitempty"`  // that it was built from

	held         bool // another invocation holds the instance's Lease
	silent       bool // nothing that a person needs to know: a termination in good order, or an instance of others
	deadLettered bool // the record is in the dead-letter queue
}

// Status is the result of an invocation in one word.
type Status string

// The statuses.
const (
	StatusPlanned      Status = "planned"        // a plan; nothing was changed
	StatusDrained      Status = "drained"        // the node is empty
	StatusNodeNotFound Status = "node-not-found" // the instance has no node in the cluster
	StatusForced       Status = "forced"         // a pod was deleted to meet the deadline, and none remained
	StatusPartial      Status = "partial"        // a pod remained, and is killed with the node
	StatusIncomplete   Status = "incomplete"     // a later invocation continues
	StatusSkipped      Status = "skipped"        // not ours, or another invocation drains the instance
	StatusRejected     Status = "rejected"       // the event's claim is not true
	StatusFailed       Status = "failed"         // a step went wrong
	StatusSwept        Status = "swept"          // of a sweep
	StatusMoved        Status = "moved"          // of a switchover: another member is the primary
	StatusRehearsed    Status = "rehearsed"      // of a switchover: everything but the request was done
	StatusHeld         Status = "held"           // of a switchover: nothing was moved
	StatusResumed      Status = "resumed"        // of a request to resume: no pooler is paused any more
	StatusChecked      Status = "checked"        // of a check
)

// Result completes a lifecycle action.
type Result string

// The results. After both, the instance is terminated, except where the group retains instances whose termination is abandoned
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/configure-instance-retention.html).
const (
	Continue Result = "CONTINUE"
	Abandon  Result = "ABANDON"
)

// withLists returns the report with empty lists instead of missing ones, so that readers need not distinguish them, and with bounded
// reasons: others write some of them.
func (r Report) withLists() Report {
	if r.Phases == nil {
		r.Phases = []drain.PhaseReport{}
	}
	if r.Pods == nil {
		r.Pods = []drain.PodReport{}
	}
	r.Reason = drain.Short(r.Reason)
	for i, p := range r.Pods {
		if len(p.Reason) > drain.MaxText {
			r.Pods = slices.Clone(r.Pods)
			r.Pods[i].Reason = drain.Short(p.Reason)
		}
	}
	return r
}

// status returns the status of a drain that is over. Pods that were skipped do not count.
func (r Report) status() Status {
	switch {
	case len(r.RemainedPods()) > 0:
		return StatusPartial
	case slices.ContainsFunc(r.Pods, func(p drain.PodReport) bool { return p.Outcome == drain.Forced }):
		return StatusForced
	}
	return StatusDrained
}

// RemainedPods returns the pods that should have gone, and did not.
func (r Report) RemainedPods() []drain.PodReport {
	return r.filterPods(func(p drain.PodReport) bool { return p.Outcome == drain.Remained })
}

// allGone reports whether pods were seen, and none is left. A completed action says nothing about that: an instance may be retained, or
// return from a warm pool with its pods.
func (r Report) allGone() bool {
	left := func(p drain.PodReport) bool {
		return p.GoneAt.IsZero() && (p.Outcome != drain.Skipped || p.Escort != nil) // a DaemonSet's may have an escort
	}
	return len(r.Pods) > 0 && !slices.ContainsFunc(r.Pods, left)
}

// ForcedPods returns the pods that were deleted to meet the deadline, whether or not they have gone.
func (r Report) ForcedPods() []drain.PodReport {
	return r.filterPods(func(p drain.PodReport) bool { return !p.ForcedAt.IsZero() })
}

func (r Report) filterPods(keep func(drain.PodReport) bool) []drain.PodReport {
	return slices.DeleteFunc(slices.Clone(r.Pods), func(p drain.PodReport) bool { return !keep(p) })
}
