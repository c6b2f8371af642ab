package termination

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"quiesce/internal/drain"
)

const (
	// maxDescriptionLag is how long a description may trail behind an event before the event is held to be wrong. Auto Scaling
	// publishes no figure; 15 s is far beyond what was seen, and short against any hook's timeout.
	maxDescriptionLag = 15 * time.Second
	// verifyPace paces the questions in that time: a description costs one request from a bucket that the whole account
	// shares.
	verifyPace = 2 * time.Second
)

// Lifecycle states, as in https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-lifecycle.html.
const (
	inService = "InService"
	retained  = "Terminating:Retained" // its termination was abandoned; it runs until somebody terminates it anew
)

// waitingStates are those in which an instance waits on its hooks for leaving, or is about to.
var waitingStates = []string{"Terminating", "Terminating:Wait", "Warmed:Pending:Wait", "ReplacingRootVolume:Wait"}

// isWaiting tells whether the instance is on its way out and not past its hooks. The zero instance, which stands for one
// that its group does not have, is not.
func (i Instance) isWaiting() bool { return slices.Contains(waitingStates, i.State) }

// verify asks whether the instance is what the event claims: in the group, and on its way out. An event is a claim; until it
// is verified nothing is written anywhere. It returns the group's instances; a rejection says why the event is not believed.
func (w *job) verify(ctx context.Context) (all []Instance, rejection string, err error) {
	patience := time.Now().Add(maxDescriptionLag)
	for {
		all, err = w.Groups.Instances(ctx, w.Group)
		if err != nil {
			return nil, "", err
		}
		instance := instanceOf(all, w.InstanceID)
		if instance.isWaiting() {
			return all, "", nil
		}
		if instance.State != inService || time.Now().After(patience) {
			return all, rejectionOf(instance, w.Termination), nil
		}
		if err := pause(ctx, verifyPace); err != nil {
			return nil, "", fmt.Errorf("verify %s: %w", w.InstanceID, err)
		}
	}
}

func rejectionOf(i Instance, t Termination) string {
	switch {
	case i.State == "":
		return fmt.Sprintf("%s is not in group %s", t.InstanceID, t.Group)
	case strings.HasSuffix(i.State, ":Proceed"):
		return fmt.Sprintf("%s is %s: past waiting, nothing can be done for it", t.InstanceID, i.State)
	}
	return fmt.Sprintf("%s is %s, not waiting to terminate", t.InstanceID, i.State)
}

// restore gives a node back what an earlier termination took, where the instance is in service after all: it came back from
// a warm pool, say.
func (w *job) restore(ctx context.Context, all []Instance) error {
	instance := instanceOf(all, w.InstanceID)
	if instance.State != inService || w.Policy.Shadow {
		return nil
	}
	k, err := w.Connect(ctx)
	if err != nil {
		return w.failed(err)
	}
	machines, _ := w.Groups.EC2Instances(ctx, w.InstanceID) // a node can be found without
	node, err := k.FindNode(ctx, w.InstanceID, machines[w.InstanceID].PrivateDNS, instance.Zone)
	if err == nil && node != nil {
		err = w.restoreNode(ctx, k, *node)
	}
	if err != nil {
		return w.failed(err)
	}
	return nil
}

// restoreNode: what was closed for a notice, or for a person, is not this event's to open.
func (w *job) restoreNode(ctx context.Context, k Kubernetes, node drain.Node) error {
	ours, err := k.Restore(ctx, node, w.Hook)
	if err != nil || !ours || !w.drainer.HasEscorts() {
		return err
	}
	return w.undoRecorded(ctx, k, node)
}

// undoRecorded undoes what escorts recorded on a Lease that is free. Where there is none, nothing is written: the event may be forged.
func (w *job) undoRecorded(ctx context.Context, k Kubernetes, node drain.Node) error {
	leases, err := k.Leases(ctx)
	if err != nil || !slices.Contains(leases, LeaseInfo{Name: w.InstanceID}) {
		return err
	}
	lease, err := k.AcquireLease(ctx, w.InstanceID, w.hasten)
	if err != nil || lease == nil {
		return err
	}
	w.drainer.Records = lease
	defer w.releaseLease(lease)
	return w.undoEscorts(ctx, k, node)
}

// undoEscorts undoes what escorts left on the pods of a node that stays.
func (w *job) undoEscorts(ctx context.Context, k Kubernetes, node drain.Node) error {
	if !w.drainer.HasEscorts() {
		return nil
	}
	watch, stop := context.WithCancel(ctx)
	defer stop()
	cluster, err := k.WatchPods(watch, node)
	if err != nil {
		return err
	}
	drainer := w.drainer
	drainer.Log = w.log
	return drainer.UndoEscorts(ctx, cluster.Pods(), node)
}

// instanceOf is the zero Instance if the group does not have it.
func instanceOf(all []Instance, id string) Instance {
	if i := slices.IndexFunc(all, func(i Instance) bool { return i.ID == id }); i >= 0 {
		return all[i]
	}
	return Instance{ID: id}
}

// terminatingPeers are the other instances that are on their way out.
func terminatingPeers(all []Instance, but string) []Instance {
	return slices.DeleteFunc(slices.Clone(all), func(i Instance) bool { return i.ID == but || !i.isWaiting() })
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
