package patroni

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// lookInterval is between two looks at the nodes. The real operator has a watch, and acts within a second.
	lookInterval = 250 * time.Millisecond
	// candidateTimeout bounds the wait for a candidate that was deleted. A test has ended long before.
	candidateTimeout = 5 * time.Minute
)

// Operator simulates what Zalando's operator 2.0.1 does when a node is cordoned. It is a stand-in: the operator itself does not run. It does as
// moveMasterPodsOffNode and MigrateMasterPod (https://github.com/zalando/postgres-operator/blob/v2.0.1/pkg/cluster/pod.go): if the master
// is on a node that has just become unschedulable, it chooses a replica, deletes that if its node is unschedulable too and waits for it
// elsewhere, and then sends POST /switchover to the master. It does so once for each cordon: the first error ends the operator's retries.
// It has neither maintenance windows nor a readiness label.
type Operator struct {
	cluster *Cluster
	stop    context.CancelFunc
	ended   chan struct{}

	mutex sync.Mutex
	acts  []Act
}

// Act is one answer of the operator to a cordon of the master's node.
type Act struct {
	Node, Leader, Candidate string
	Deleted                 bool   // the candidate, because its node was cordoned too
	Answer                  Answer // of Patroni
	Err                     error  // why Patroni was not asked, or did not answer
}

// PlayOperator starts the stand-in. It acts until Stop, or until ctx ends.
func (c *Cluster) PlayOperator(ctx context.Context) *Operator {
	ctx, stop := context.WithCancel(ctx)
	o := &Operator{cluster: c, stop: stop, ended: make(chan struct{})}
	go o.run(ctx)
	return o
}

// Stop ends it, and returns what it did.
func (o *Operator) Stop() []Act {
	o.stop()
	<-o.ended
	return o.Acts()
}

// Acts returns what it did until now.
func (o *Operator) Acts() []Act {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return slices.Clone(o.acts)
}

func (o *Operator) run(ctx context.Context) {
	defer close(o.ended)
	var before map[string]bool
	_ = wait.PollUntilContextCancel(ctx, lookInterval, true, func(ctx context.Context) (bool, error) {
		nodes, err := o.cluster.lab.Client().CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, nil // the next look sees the same nodes
		}
		now := unschedulable(nodes.Items)
		for _, node := range newlyCordoned(before, now) {
			o.answer(ctx, node, now)
		}
		before = now
		return false, nil
	})
}

// unschedulable returns which nodes are cordoned, by name.
func unschedulable(nodes []corev1.Node) map[string]bool {
	all := map[string]bool{}
	for _, node := range nodes {
		all[node.Name] = node.Spec.Unschedulable
	}
	return all
}

// newlyCordoned returns the nodes that were schedulable and are not any more, in order. At the first look there are none before.
func newlyCordoned(before, now map[string]bool) (names []string) {
	for name, cordoned := range now {
		if was, known := before[name]; cordoned && known && !was {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// answer moves the master off the node, if it is there.
func (o *Operator) answer(ctx context.Context, node string, cordoned map[string]bool) {
	leader, err := o.cluster.Leader(ctx)
	if err != nil || leader.Spec.NodeName != node {
		return
	}
	act := Act{Node: node, Leader: leader.Name}
	if act.Candidate, act.Err = o.cluster.Candidate(ctx); act.Err == nil {
		act.Deleted, act.Err = o.moveOff(ctx, act.Candidate, cordoned)
	}
	if act.Err == nil { // the operator's own names of the two: "leader" and "member" (pkg/util/patroni/patroni.go)
		body := map[string]string{"leader": act.Leader, "member": act.Candidate}
		act.Answer, act.Err = o.cluster.REST(ctx, act.Leader, http.MethodPost, "/switchover", body)
	}
	o.mutex.Lock()
	defer o.mutex.Unlock()
	o.acts = append(o.acts, act)
}

// moveOff deletes the candidate if its node is cordoned, and waits until it runs on another.
func (o *Operator) moveOff(ctx context.Context, candidate string, cordoned map[string]bool) (deleted bool, err error) {
	pod, err := o.cluster.Member(ctx, candidate)
	if err != nil || !cordoned[pod.Spec.NodeName] {
		return false, err
	}
	err = o.cluster.lab.Client().CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{})
	if err != nil {
		return false, fmt.Errorf("delete the candidate: %w", err)
	}
	err = wait.PollUntilContextTimeout(ctx, lookInterval, candidateTimeout, true, func(ctx context.Context) (bool, error) {
		again, err := o.cluster.Member(ctx, candidate)
		switch {
		case errors.Is(err, ErrNoMember):
			return false, nil
		case err != nil:
			return false, err
		}
		return again.UID != pod.UID && isReady(again), nil
	})
	if err != nil {
		return true, fmt.Errorf("wait for the candidate on another node: %w", err)
	}
	return true, nil
}

func isReady(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
