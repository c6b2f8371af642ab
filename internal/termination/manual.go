package termination

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"quiesce/internal/drain"
)

// handleRequest does what a person asks for.
func (h *Handler) handleRequest(ctx context.Context, r Request) (Report, error) {
	t := Termination{InstanceID: r.InstanceID, Hook: h.Policy.Hook, Began: time.Now()}
	w := h.newJob(t)
	var err error
	switch r.Action {
	case ActionPlan:
		err = w.planFor(ctx, r)
	case ActionDrain:
		err = w.drainManually(ctx)
	default:
		err = fmt.Errorf("action %q is not known", r.Action)
		w.end(StatusRejected, err.Error())
		err = &Malformed{err}
	}
	w.report.FinishedAt = time.Now()
	if r.Action == ActionDrain {
		w.publish(ctx, err)
	}
	return w.report, err
}

// drainManually drains an instance that waits on our hook as its event would have; any other only if the operator allows it,
// and then without completing anything.
func (w *job) drainManually(ctx context.Context) error {
	if err := w.findGroup(ctx); err != nil {
		return w.failed(err)
	}
	all, err := w.Groups.Instances(ctx, w.Group)
	if err != nil {
		return w.failed(err)
	}
	waits := w.Group != "" && w.Policy.OwnsGroup(w.Group) && instanceOf(all, w.InstanceID).isWaiting()
	switch {
	case waits:
		return w.run(ctx)
	case !w.Policy.AllowManualDrain:
		w.end(StatusRejected, fmt.Sprintf("%s does not wait on hook %s, and allowManualDrain is off", w.InstanceID, w.Hook))
		return nil
	}
	slice, cancel := boundInvocation(ctx)
	defer cancel()
	w.report.Deadline = w.Policy.Bounds.deadline(w.Began, w.Began, Hook{})
	return w.drainWithoutHook(slice, all)
}

// findGroup finds out which group the instance is in, if any.
func (w *job) findGroup(ctx context.Context) (err error) {
	if w.Group, err = w.Groups.GroupOf(ctx, w.InstanceID); err != nil {
		return err
	}
	w.report.Group = w.Group
	w.log = w.Log.With("instance", w.InstanceID, "group", w.Group)
	return nil
}

// drainWithoutHook drains an instance that waits on no hook, until the report's deadline. There is nothing to complete: should it come
// to wait on our hook meanwhile, that has an event of its own.
func (w *job) drainWithoutHook(slice context.Context, all []Instance) error {
	w.Hook, w.report.Hook = "", ""
	k, err := w.Connect(slice)
	if err != nil {
		return w.failed(err)
	}
	lease, err := k.AcquireLease(slice, w.InstanceID, w.hasten)
	if err != nil {
		return w.failed(err)
	}
	if lease == nil {
		w.notifyHolder(slice, k)
		w.skipHeld()
		return nil
	}
	w.drainer.Records = lease
	defer w.releaseLease(lease)
	defer w.keepPossibleActionAlive(slice)()
	_, err = w.emptyInTime(slice, k, all)
	return err
}

// PlanReport is what an engineer wants to read before trusting a drain: beside each pod's verdict and phase, the budgets
// and what they allow now, and how the deadline comes about.
type PlanReport struct {
	PDBs     []drain.PDB    `json:"budgets"`
	Deadline DeadlineReport `json:"deadline"`
}

// DeadlineReport is the arithmetic behind a deadline. Durations are in seconds.
type DeadlineReport struct {
	MaxDurationSeconds       float64 `json:"maxDuration"`
	CompletionReserveSeconds float64 `json:"reserve"`
	HeartbeatTimeoutSeconds  float64 `json:"hookHeartbeatTimeout,omitempty"`
	GlobalTimeoutSeconds     float64 `json:"hookGlobalTimeout,omitempty"`
	AvailableSeconds         float64 `json:"available"`    // for evictions, from the beginning of the action
	LongestGraceSeconds      float64 `json:"longestGrace"` // of the pods to be evicted
}

func (w *job) planFor(ctx context.Context, r Request) error {
	slice, cancel := boundInvocation(ctx)
	defer cancel()
	k, err := w.Connect(slice)
	if err != nil {
		return w.failed(err)
	}
	node, err := w.findPlannedNode(slice, k, r)
	if err != nil {
		return w.failed(err)
	}
	if node == nil {
		w.end(StatusPlanned, "there is no such node in the cluster")
		return nil
	}
	return w.plan(slice, k, *node)
}

// findPlannedNode finds the node that a person means, and which instance and group it is.
func (w *job) findPlannedNode(ctx context.Context, k Kubernetes, r Request) (node *drain.Node, err error) {
	if r.Node != "" {
		if node, err = k.NodeByName(ctx, r.Node); node == nil || err != nil {
			return nil, err
		}
		w.InstanceID, w.report.InstanceID = node.InstanceID, node.InstanceID
	}
	if w.InstanceID != "" {
		if err = w.findGroup(ctx); err != nil {
			return nil, err
		}
	}
	if node != nil {
		return node, nil
	}
	machines, err := w.Groups.EC2Instances(ctx, w.InstanceID)
	if err != nil {
		w.log.Warn("EC2 was of no help", "error", err.Error())
	}
	return k.FindNode(ctx, w.InstanceID, machines[w.InstanceID].PrivateDNS, "")
}

// shadow plans what would be done about a real event, changes nothing, and lets the instance go at once.
func (w *job) shadow(ctx, slice context.Context, all []Instance) error {
	w.planDryRun(slice, all)
	return w.complete(ctx, Continue)
}

// planDryRun reports a plan, if one is to be had, where nothing may be changed.
func (w *job) planDryRun(slice context.Context, all []Instance) {
	k, err := w.Connect(slice)
	if err == nil {
		err = w.planInstance(slice, k, all)
	}
	if err != nil {
		w.log.Warn("no plan", "error", err.Error())
	}
	w.end(StatusPlanned, "shadow mode: nothing was changed")
}

func (w *job) planInstance(slice context.Context, k Kubernetes, all []Instance) error {
	machines := w.describeInstances(slice, all)
	node, err := k.FindNode(slice, w.InstanceID, machines[w.InstanceID].PrivateDNS, instanceOf(all, w.InstanceID).Zone)
	if node == nil || err != nil {
		return err
	}
	return w.plan(slice, k, *node)
}

// plan reports the first pass of a drain that is not done.
func (w *job) plan(ctx context.Context, k Kubernetes, node drain.Node) error {
	watch, stop := context.WithCancel(ctx)
	defer stop()
	cluster, err := k.WatchPods(watch, node)
	if err != nil {
		return w.failed(err)
	}
	pods := cluster.Pods()
	w.report.Node = node.Name
	w.report.Report = w.Drainer.Plan(pods, node)
	w.Drainer.Advise(ctx, &w.report.Report, pods, node)
	budgets, err := k.PDBs(ctx, w.Drainer.Evictable(pods, node))
	if err != nil {
		return w.failed(err)
	}
	w.report.AddBlockers(budgets)
	w.report.Plan = &PlanReport{PDBs: budgets, Deadline: w.planDeadline(ctx, w.Drainer.Evictable(pods, node))}
	w.end(StatusPlanned, "")
	return nil
}

func (w *job) planDeadline(ctx context.Context, wanted []drain.Pod) DeadlineReport {
	hook, err := w.Hooks.Describe(ctx, w.Group, w.Hook)
	if err != nil {
		w.log.Warn("the hook is not known", "error", err.Error())
	}
	bounds, now := w.Policy.Bounds, time.Now()
	w.report.Deadline = bounds.deadline(now, now, hook)
	report := DeadlineReport{
		MaxDurationSeconds: bounds.MaxDuration.Seconds(), CompletionReserveSeconds: bounds.CompletionReserve.Seconds(),
		HeartbeatTimeoutSeconds: hook.HeartbeatTimeout.Seconds(), GlobalTimeoutSeconds: hook.limit().Seconds(),
		AvailableSeconds: w.report.Deadline.Sub(now).Seconds(),
	}
	if len(wanted) > 0 {
		report.LongestGraceSeconds = slices.MaxFunc(wanted, func(a, b drain.Pod) int { return cmp.Compare(a.Grace, b.Grace) }).Grace.Seconds()
	}
	return report
}
