package termination

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"quiesce/internal/drain"
)

const (
	// maxCheckedInstances bounds for how many instances a check looks for a node. Each without a node costs a list of all nodes. With
	// fewer, instances that never joined could hide all the others.
	maxCheckedInstances = 5
	// maxDescribedInstances bounds how many instances a check asks EC2 about, to look at new ones last. It is one request.
	maxDescribedInstances = 50
	// maxTriedPods bounds how many pods a check asks about, if webhooks deny. One may deny every eviction of its own pods.
	maxTriedPods = 5
)

// connect finds the API server. The next step is the first that sends it a token.
func (c *check) connect(ctx context.Context) (string, error) {
	cluster, err := c.Connect(ctx)
	if err != nil {
		return "", err
	}
	c.cluster = cluster
	return "the cluster's address and CA are known", nil
}

// readLeases is the first request with a token: it shows that the network, the identity and its group are right.
func (c *check) readLeases(ctx context.Context) (string, error) {
	if c.cluster == nil {
		return "", needs{"cluster"}
	}
	leases, err := c.cluster.Leases(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d Leases", len(leases)), nil
}

// findNode finds the node of an instance of ours. One instance without a node means little: it may be new, or never have joined.
func (c *check) findNode(ctx context.Context) (string, error) {
	ids := c.instancesInService()
	switch {
	case c.cluster == nil:
		return "", needs{"cluster"}
	case len(ids) == 0:
		// There is no such instance. The search for it lists all nodes.
		c.noNode = "no instance of our groups is in service"
		_, err := c.cluster.FindNodes(ctx, "i-00000000000000000", EC2Instance{})
		return "nodes can be listed; " + c.noNode, err
	}
	known, err := c.Groups.EC2Instances(ctx, ids...)
	if err != nil {
		return "", err
	}
	isNew := func(id string) bool { return known[id].isNew() }
	old := slices.DeleteFunc(slices.Clone(ids), isNew)
	ids = slices.Concat(old, slices.DeleteFunc(ids, func(id string) bool { return !isNew(id) }))
	ids = ids[:min(len(ids), maxCheckedInstances)]
	for _, id := range ids {
		found, err := c.searchNodes(ctx, c.cluster, id, known[id])
		if err != nil {
			return "", err
		}
		if len(found.Nodes) > 0 {
			c.node = &found.Nodes[0]
			return fmt.Sprintf("%s is %s", id, c.node.Name), nil
		}
	}
	if len(old) == 0 {
		c.noNode = "the instances in service are new, and have no nodes yet: " + named(ids)
		return "nodes can be listed; " + c.noNode, nil
	}
	return "", &misconfigured{
		"no node of the cluster is one of " + named(ids),
		"correct cluster or autoScalingGroups in quiesce.yaml: the groups may belong to another cluster",
	}
}

// instancesInService returns instances in service: the first of each group, then the second of each group, and so on.
func (c *check) instancesInService() (ids []string) {
	for n, more := 0, true; more; n++ {
		more = false
		for _, group := range c.groups {
			serving := slices.DeleteFunc(slices.Clone(group.Instances), func(i Instance) bool { return i.State != inService })
			if n < len(serving) && len(ids) < maxDescribedInstances {
				ids, more = append(ids, serving[n].ID), true
			}
		}
	}
	return ids
}

// listPods lists the pods of the node. Their watch lasts until the next step is over.
func (c *check) listPods(watching, step context.Context) (string, error) {
	switch {
	case c.cluster == nil:
		return "", needs{"cluster"}
	case c.node == nil && c.noNode == "":
		return "", needs{"nodes"}
	}
	node := drain.Node{Name: "quiesce-check"} // there is no such node: its list of pods is empty
	if c.node != nil {
		node = *c.node
	}
	watched, err := c.watch(watching, step, node)
	if err != nil {
		return "", err
	}
	c.watched = watched
	return fmt.Sprintf("%d pods on node %s", len(watched.Pods()), node.Name), nil
}

// watch is WatchPods, which must answer before step ends.
func (c *check) watch(watching, step context.Context, node drain.Node) (drain.Cluster, error) {
	ctx, cancel := context.WithCancelCause(watching)
	stop := context.AfterFunc(step, func() { cancel(context.Cause(step)) })
	watched, err := c.cluster.WatchPods(ctx, node, drain.EffortFull)
	if stop(); err != nil {
		cancel(nil)
	}
	return watched, err
}

// tryEviction asks whether a pod could be evicted, as a dry run: the API server checks permissions, admission and PDBs, and changes
// nothing (https://kubernetes.io/docs/reference/using-api/api-concepts/#dry-run). A PDB that does not allow it now is a good answer: it
// comes after permissions and policies.
func (c *check) tryEviction(ctx context.Context) (string, error) {
	if c.watched == nil {
		return "", needs{"pods"}
	}
	if c.node == nil {
		return "not tried: " + c.noNode, nil
	}
	pods := c.Drainer.Evictable(c.watched.Pods(), *c.node)
	if len(pods) == 0 {
		return "not tried: no pod on node " + c.node.Name + " would be evicted", nil
	}
	var last error
	for _, pod := range pods[:min(len(pods), maxTriedPods)] {
		err := c.watched.Evict(ctx, pod.Ref, drain.EvictOptions{DryRun: true})
		if err == nil {
			return fmt.Sprintf("%s could be evicted", pod.Ref), nil
		}
		if blocked, is := errors.AsType[*drain.Blocked](err); is {
			return fmt.Sprintf("%s could be evicted once its PDB allows that: %s", pod.Ref, blocked.Reason), nil
		}
		last = fmt.Errorf("evict %s as a dry run: %w", pod.Ref, err)
		if _, is := errors.AsType[*drain.Refused](err); !is {
			break
		}
	}
	return "", deniedBy(last)
}

// deniedBy says what to do about a webhook or policy that denies evictions.
func deniedBy(err error) error {
	refused, is := errors.AsType[*drain.Refused](err)
	switch {
	case !is:
		return err
	case strings.Contains(refused.Reason, "ValidatingAdmissionPolicy 'quiesce-"):
		return &misconfigured{err.Error(), "kubectl apply -f infra/rbac.yaml"}
	}
	return &misconfigured{err.Error(), "look at the webhook or policy that denies: drains wait for it, and delete the pods at their deadlines"}
}
