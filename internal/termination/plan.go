package termination

import (
	"cmp"
	"context"
	"slices"
	"time"

	"quiesce/internal/drain"
)

// PlanReport is what a plan adds to each pod's verdict and phase: the PDBs and what they allow now, and how the deadline follows.
type PlanReport struct {
	PDBs     []drain.PDB    `json:"pdbs"`
	Deadline DeadlineReport `json:"deadline"`
}

// DeadlineReport is the arithmetic behind a deadline. Durations are in seconds.
type DeadlineReport struct {
	MaxDurationSeconds       float64 `json:"maxDurationSeconds"`
	CompletionReserveSeconds float64 `json:"completionReserveSeconds"`
	HeartbeatTimeoutSeconds  float64 `json:"hookHeartbeatTimeoutSeconds,omitempty"`
	GlobalTimeoutSeconds     float64 `json:"hookGlobalTimeoutSeconds,omitempty"`
	AvailableSeconds         float64 `json:"availableSeconds"`    // for evictions, from the start of the action
	LongestGraceSeconds      float64 `json:"longestGraceSeconds"` // of the pods to be evicted
}

// runPlan plans the drain of the instance or node that a manual invocation names.
func (j *job) runPlan(ctx context.Context, r Request) error {
	invocation, cancel := boundInvocation(ctx)
	defer cancel()
	cluster, err := j.Connect(invocation)
	if err != nil {
		return j.failed(err)
	}
	node, err := j.findPlannedNode(invocation, cluster, r)
	if err != nil {
		return j.failed(err)
	}
	if node == nil {
		j.end(StatusPlanned, "there is no such node in the cluster")
		return nil
	}
	return j.plan(invocation, cluster, *node)
}

// findPlannedNode finds the requested node, and its instance and group.
func (j *job) findPlannedNode(ctx context.Context, cluster Kubernetes, r Request) (node *drain.Node, err error) {
	if r.Node != "" {
		if node, err = cluster.NodeByName(ctx, r.Node); node == nil || err != nil {
			return nil, err
		}
		j.InstanceID, j.report.InstanceID = node.InstanceID, node.InstanceID
	}
	if j.InstanceID != "" {
		if _, err = j.findGroup(ctx); err != nil {
			return nil, err
		}
	}
	if node != nil {
		return node, nil
	}
	known, err := j.Groups.EC2Instances(ctx, j.InstanceID)
	if err != nil {
		j.log.Warn("DescribeInstances failed, searching nodes instead", "error", err.Error())
	}
	return j.findFirstNode(ctx, cluster, known[j.InstanceID])
}

// findFirstNode returns the node of the instance that is most likely the right one; nil: there is none.
func (j *job) findFirstNode(ctx context.Context, cluster Kubernetes, known EC2Instance) (*drain.Node, error) {
	found, err := j.searchNodes(ctx, cluster, j.InstanceID, known)
	if err != nil || len(found.Nodes) == 0 {
		return nil, err
	}
	j.noteAmbiguity(found)
	return &found.Nodes[0], nil
}

// planDryRun reports a plan of the instance's drain in shadow mode, if it can be made. It changes nothing.
func (j *job) planDryRun(invocation context.Context) {
	cluster, err := j.Connect(invocation)
	if err == nil {
		err = j.planInstance(invocation, cluster)
	}
	if err != nil {
		j.log.Warn("failed to plan", "error", err.Error())
	}
	j.end(StatusPlanned, "shadow mode: nothing was changed")
}

func (j *job) planInstance(ctx context.Context, cluster Kubernetes) error {
	j.askInstance(ctx)
	node, err := j.findFirstNode(ctx, cluster, j.asked.instance().EC2Instance)
	if node == nil || err != nil {
		return err
	}
	return j.plan(ctx, cluster, *node)
}

// plan reports what a drain would begin with, and evicts nothing.
func (j *job) plan(ctx context.Context, cluster Kubernetes, node drain.Node) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	watched, err := cluster.WatchPods(ctx, node, drain.EffortFull)
	if err != nil {
		return j.failed(err)
	}
	pods, drainer := watched.Pods(), j.Drainer
	drainer.Records = j.readRecords(ctx, cluster)
	j.report.Node = node.Name
	j.report.Report = drainer.Plan(pods, node)
	drainer.Advise(ctx, &j.report.Report, pods, node)
	evictable := drainer.Evictable(pods, node)
	pdbs, err := cluster.PDBs(ctx, evictable)
	if err != nil {
		return j.failed(err)
	}
	j.report.AddBlockers(pdbs)
	j.report.Plan = &PlanReport{PDBs: pdbs, Deadline: j.planDeadline(ctx, evictable)}
	j.end(StatusPlanned, "")
	return nil
}

// readRecords returns what a drain has recorded of the node's pods: an escort may have taken the label that selects a pod's phase. A plan
// can do without; nil: there are none.
func (j *job) readRecords(ctx context.Context, cluster Kubernetes) drain.Records {
	if j.InstanceID == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	records, err := cluster.ReadRecords(ctx, j.InstanceID)
	if err != nil {
		j.log.Warn("failed to read records, plan does without", "error", err.Error())
		return nil
	}
	return records
}

// planDeadline returns the deadline of a drain that would begin now, and how it follows.
func (j *job) planDeadline(ctx context.Context, evictable []drain.Pod) DeadlineReport {
	var hook Hook
	if j.Group != "" { // an instance of no group has no hook
		hook = j.describeHook(ctx)
	}
	bounds, now := j.Policy.Bounds, time.Now()
	j.clock.setForHook(start{now, now, now}, hook)
	report := DeadlineReport{
		MaxDurationSeconds: bounds.MaxDuration.Seconds(), CompletionReserveSeconds: bounds.CompletionReserve.Seconds(),
		HeartbeatTimeoutSeconds: hook.HeartbeatTimeout.Seconds(), GlobalTimeoutSeconds: hook.limit().Seconds(),
		AvailableSeconds: j.clock.deadline().Sub(now).Seconds(),
	}
	if len(evictable) > 0 {
		report.LongestGraceSeconds = slices.MaxFunc(evictable, func(a, b drain.Pod) int { return cmp.Compare(a.Grace, b.Grace) }).Grace.Seconds()
	}
	return report
}
