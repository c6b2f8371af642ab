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
		if err = j.findGroup(ctx); err != nil {
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
	return cluster.FindNode(ctx, j.InstanceID, known[j.InstanceID].PrivateDNS, "")
}

// planDryRun reports a plan of the instance's drain in shadow mode, if it can be made. It changes nothing.
func (j *job) planDryRun(invocation context.Context, instances []Instance) {
	cluster, err := j.Connect(invocation)
	if err == nil {
		err = j.planInstance(invocation, cluster, instances)
	}
	if err != nil {
		j.log.Warn("failed to plan", "error", err.Error())
	}
	j.end(StatusPlanned, "shadow mode: nothing was changed")
}

func (j *job) planInstance(ctx context.Context, cluster Kubernetes, instances []Instance) error {
	known := j.describeInstances(ctx, instances)
	node, err := cluster.FindNode(ctx, j.InstanceID, known[j.InstanceID].PrivateDNS, instanceOf(instances, j.InstanceID).Zone)
	if node == nil || err != nil {
		return err
	}
	return j.plan(ctx, cluster, *node)
}

// plan reports what a drain would begin with, and evicts nothing.
func (j *job) plan(ctx context.Context, cluster Kubernetes, node drain.Node) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	watched, err := cluster.WatchPods(ctx, node)
	if err != nil {
		return j.failed(err)
	}
	pods := watched.Pods()
	j.report.Node = node.Name
	j.report.Report = j.Drainer.Plan(pods, node)
	j.Drainer.Advise(ctx, &j.report.Report, pods, node)
	evictable := j.Drainer.Evictable(pods, node)
	pdbs, err := cluster.PDBs(ctx, evictable)
	if err != nil {
		return j.failed(err)
	}
	j.report.AddBlockers(pdbs)
	j.report.Plan = &PlanReport{PDBs: pdbs, Deadline: j.planDeadline(ctx, evictable)}
	j.end(StatusPlanned, "")
	return nil
}

// planDeadline returns the deadline of a drain that would begin now, and how it follows.
func (j *job) planDeadline(ctx context.Context, evictable []drain.Pod) DeadlineReport {
	hook, err := j.Hooks.Describe(ctx, j.Group, j.Hook)
	if err != nil {
		j.log.Warn("failed to describe lifecycle hook", "error", err.Error())
	}
	bounds, now := j.Policy.Bounds, time.Now()
	j.clock.setForHook(now, now, hook)
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
