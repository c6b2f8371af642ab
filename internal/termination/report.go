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
	Trigger         Trigger   `json:"notice,omitempty"`    // of EC2's, that was heeded
	LifecycleResult Result    `json:"lifecycle,omitempty"` // what the lifecycle action was completed with; empty: it was not
	Reason          string    `json:"reason"`
	StartedAt       time.Time `json:"startedAt,omitzero"`
	Deadline        time.Time `json:"deadline,omitzero"`
	FinishedAt      time.Time `json:"finishedAt,omitzero"`
	drain.Report
	Plan *PlanReport `json:"plan,omitempty"` // of a plan only

	held  bool // by another invocation
	deadLettered bool // the record is among the dead letters
}

// Status sums a report up.
type Status string

// The statuses.
const (
	StatusPlanned    Status = "planned"    // a plan; nothing was changed
	StatusDrained    Status = "drained"    // the node is empty
	StatusForced     Status = "forced"     // some pod was deleted because time ran out, and none was left
	StatusPartial    Status = "left"       // some pod was left to die with the node
	StatusIncomplete Status = "incomplete" // a later invocation goes on
	StatusSkipped    Status = "skipped"    // not ours, owned by another invocation, or nothing to do
	StatusRejected   Status = "rejected"   // not what the event claimed
	StatusFailed     Status = "failed"     // something went wrong
	StatusSwept      Status = "swept"      // of a sweep
)

// Result is what a lifecycle action is completed with.
type Result string

// The results. Both let the instance go, except where the group retains instances whose termination is abandoned
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/configure-instance-retention.html).
const (
	Continue Result = "CONTINUE"
	Abandon  Result = "ABANDON"
)

// withLists makes every list one, so that readers need not tell none from missing.
func (r Report) withLists() Report {
	if r.Phases == nil {
		r.Phases = []drain.PhaseReport{}
	}
	if r.Pods == nil {
		r.Pods = []drain.PodReport{}
	}
	return r
}

// status is the status of a drain that is over. Pods that a verdict left alone from the first were never to go; one that was asked
// to go and stayed, or that time left behind, makes a difference.
func (r Report) status() Status {
	switch {
	case len(r.RemainedPods()) > 0:
		return StatusPartial
	case slices.ContainsFunc(r.Pods, func(p drain.PodReport) bool { return p.Outcome == drain.Forced }):
		return StatusForced
	}
	return StatusDrained
}

// RemainedPods are the pods that were to go, and stay all the same.
func (r Report) RemainedPods() []drain.PodReport {
	return r.filterPods(func(p drain.PodReport) bool {
		return p.Outcome == drain.Remained && (p.Verdict != drain.Skip || !p.EvictedAt.IsZero())
	})
}

// ForcedPods are the pods that were deleted because time ran out, whatever became of them then.
func (r Report) ForcedPods() []drain.PodReport {
	return r.filterPods(func(p drain.PodReport) bool { return !p.ForcedAt.IsZero() })
}

func (r Report) filterPods(are func(drain.PodReport) bool) []drain.PodReport {
	return slices.DeleteFunc(slices.Clone(r.Pods), func(p drain.PodReport) bool { return !are(p) })
}
