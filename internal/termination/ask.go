package termination

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"quiesce/internal/drain"
)

// questions are what a drain asks AWS and the cluster, each beside the others, and beside what the drain does meanwhile. None of them
// writes. Asked one after the other, they would take most of the time to a cold function's first eviction.
type questions struct {
	instance   func() answeredInstance                   // what EC2 tells of the instance; nil: not asked yet
	instanceAt time.Time                                 // when it was asked
	peers      func() []drain.Node                       // the nodes of terminating peers
	hook       func() Hook                               // nil: not asked yet
	activities func() time.Time                          // when the instance's activity began; nil: not asked yet
	nodes      func(context.Context) (FoundNodes, error) // the nodes that claim the instance; nil: not asked yet, or answered
}

// answeredInstance is what EC2 told of the instance, or why it did not answer: that does not mean that it knows nothing.
type answeredInstance struct {
	EC2Instance
	err error
}

// beside calls f beside what follows, and returns what waits for its result. A panic of f is one of the caller who waits, as if it had
// called f itself: it fails that record, and not the process.
func beside[T any](f func() T) (await func() T) {
	var result T
	var panicked any
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { panicked = recover() }()
		result = f()
	}()
	return func() T {
		<-done
		if panicked != nil {
			panic(panicked)
		}
		return result
	}
}

// connection is the answer to a question for the cluster.
type connection struct {
	cluster Kubernetes
	err     error
}

// askCluster connects to the cluster. It is called before the event is verified: a cold function takes as long for the one as for the other.
func (j *job) askCluster(ctx context.Context) (await func() connection) {
	return beside(func() (c connection) {
		c.cluster, c.err = j.Connect(ctx)
		return c
	})
}

// askInstance asks EC2 about our instance, unless that was asked. It is called before the event is verified, too.
func (j *job) askInstance(ctx context.Context) {
	if j.asked.instance != nil {
		return
	}
	log := j.log
	j.asked.instanceAt = time.Now()
	j.asked.instance = beside(func() answeredInstance {
		known, err := j.describeInstances(ctx, log, j.InstanceID)
		return answeredInstance{known[j.InstanceID], err}
	})
}

// forgetOld drops what EC2 told, if it was long ago: an event is verified for a while, and meanwhile the instance may be gone.
func (j *job) forgetOld() {
	if time.Since(j.asked.instanceAt) >= verifyPace {
		j.asked.instance = nil
	}
}

// askBeforeLease asks what is known of a verified event without the cluster. It is called before the Lease is acquired: otherwise three
// calls in a row would delay the first eviction. The first of two deliveries mostly acquires it. One that comes again mostly finds the
// Lease held, and would ask in vain.
func (j *job) askBeforeLease(ctx context.Context) {
	j.askInstance(ctx)
	j.asked.peers = j.askPeers(ctx)
	if j.first {
		j.askClock(ctx)
	}
}

// askClock asks what decides the deadline, unless that was asked.
func (j *job) askClock(ctx context.Context) {
	if j.asked.hook == nil {
		j.asked.hook, j.asked.activities = j.askHook(ctx), j.askActivities(ctx)
	}
}

// askPeers asks Auto Scaling for our instance's terminating peers, and EC2 for the names of their nodes. Without an answer, no peers are
// tainted, or nodes are searched.
func (j *job) askPeers(ctx context.Context) (await func() []drain.Node) {
	log, group := j.log, j.group
	return beside(func() (nodes []drain.Node) {
		peers := j.describePeers(ctx, log, group)
		var ids []string
		for _, i := range peers {
			ids = append(ids, i.ID)
		}
		if len(ids) == 0 {
			return nil
		}
		known, _ := j.describeInstances(ctx, log, ids...)
		for _, id := range ids {
			nodes = append(nodes, drain.Node{Name: known[id].PrivateDNS, InstanceID: id})
		}
		return nodes
	})
}

func (j *job) describePeers(ctx context.Context, log *slog.Logger, group *Group) []Instance {
	if group != nil {
		return terminatingPeers(group.Instances, j.InstanceID)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	described, err := j.Groups.Group(ctx, j.Group)
	if err != nil && !isInVain(ctx) {
		log.Warn("DescribeAutoScalingGroups failed, terminating peers are not tainted", "error", err.Error())
	}
	return terminatingPeers(described.Instances, j.InstanceID)
}

func (j *job) describeInstances(ctx context.Context, log *slog.Logger, ids ...string) (map[string]EC2Instance, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	known, err := j.Groups.EC2Instances(ctx, ids...)
	if err != nil && !isInVain(ctx) {
		log.Warn("DescribeInstances failed, searching nodes instead", "error", err.Error())
	}
	return known, err
}

// isInVain reports whether no answer is awaited any more: the job has ended.
func isInVain(ctx context.Context) bool { return errors.Is(context.Cause(ctx), context.Canceled) }

// askNodes looks for the nodes that claim the instance, as soon as EC2 has told of it. The search is the first of awaitNodes.
func (j *job) askNodes(ctx context.Context, cluster Kubernetes) {
	type answer struct {
		found FoundNodes
		err   error
	}
	instance := j.asked.instance
	done := make(chan struct{})
	await := beside(func() (a answer) {
		defer close(done)
		a.found, a.err = j.searchNodes(ctx, cluster, j.InstanceID, instance().EC2Instance)
		return a
	})
	j.asked.nodes = func(ctx context.Context) (FoundNodes, error) {
		select {
		case <-done:
			a := await()
			return a.found, a.err
		case <-ctx.Done():
			return FoundNodes{}, context.Cause(ctx)
		}
	}
}

// findNodes returns the answer to askNodes, and from then on searches again.
func (j *job) findNodes(ctx context.Context, cluster Kubernetes, known EC2Instance) (FoundNodes, error) {
	if asked := j.asked.nodes; asked != nil {
		j.asked.nodes = nil
		return asked(ctx)
	}
	return j.searchNodes(ctx, cluster, j.InstanceID, known)
}
