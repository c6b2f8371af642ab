package postgres

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/env/patroni"
	"quiesce/test/env/poolers"
)

// Clusters that have no other member to switch over to, or must not lose one, or take no writes. Each has its words in the plan. They have
// no clients: it is about what quiesce would do.
func TestCases_SmallClusters_PlanSaysWhatWouldHappen(t *testing.T) {
	s := newSmall(t)
	clusters := s.deploy(
		patroni.Options{Namespace: "strict", Version: "4.0", Members: 2, Synchronous: true, Strict: true},
		patroni.Options{Namespace: "single", Version: "4.0", Members: 1, Claim: patroni.EBSClaim},
		patroni.Options{Namespace: "local", Version: "3.0", Members: 1, Claim: patroni.LocalClaim},
		patroni.Options{Namespace: "folder", Version: "3.0", Members: 1, Endpoints: true},
	)
	strict, single, local, folder := clusters[0], clusters[1], clusters[2], clusters[3]
	leader, err := single.Leader(s.ctx)
	require.NoError(t, err)
	follower := patroni.Options{Namespace: "standby", Version: "4.0", Members: 1, Endpoints: true, Follows: leader.Status.PodIP}
	standby := s.deploy(follower)[0]
	function := s.function()

	s.requirePlan("until the old primary streams again, there is no standby, and the cluster takes no writes", s.planOfLeader, function, strict)
	s.requirePlan("demo-[01] is the last synchronous standby, and without one the cluster takes no writes", s.planOfReplica, function, strict)
	s.requirePlan("evicted like any other pod: it is the only member of its cluster, and its volumes follow it to another node", s.planOfLeader, function, single)
	s.requirePlan("its data may exist on this node only: the volume of claim data is deleted with its pod, or is not one that AWS attaches elsewhere",
		s.planOfLeader, function, local)
	s.requirePlan("its data may exist on this node only: it has no PersistentVolumeClaim", s.planOfLeader, function, folder)
	s.requirePlan("evicted like any other pod: the cluster follows another one and takes no writes", s.planOfLeader, function, standby)

	s.requireHeld("its data may exist on this node only", function, local)
	s.requireHeld("takes no writes", function, standby)
	s.switchover(function, strict, termination.StatusMoved)
	require.NoError(t, strict.AwaitStreaming(s.ctx))
}

// small is clusters without clients, on the nodes of one group.
type small struct {
	*patroniFixture
	group string
	nodes []env.Instance
}

// newSmall makes a group whose pods run on two nodes of one zone: a volume cannot leave its zone. Of three nodes, two are in one of the two
// zones, and the other is cordoned.
func newSmall(t *testing.T) *small {
	t.Helper()
	s := &small{patroniFixture: &patroniFixture{fixture: prepare(t)}, group: fmt.Sprintf("postgres-%d", testCount.Add(1))}
	_, err := shared.BaseNode(s.ctx)
	require.NoError(t, err)
	_, err = shared.Group(s.ctx, s.group, 0)
	require.NoError(t, err)
	s.nodes, err = shared.Acquire(s.ctx, s.group, 3)
	require.NoError(t, err)
	t.Cleanup(s.release)
	slices.SortFunc(s.nodes, func(a, b env.Instance) int { return strings.Compare(a.Zone, b.Zone) })
	other := s.nodes[0]
	if other.Zone == s.nodes[1].Zone {
		other = s.nodes[2]
	}
	_, err = shared.Lab.Kubectl(s.ctx, "cordon", other.Node)
	require.NoError(t, err)
	return s
}

// instanceOf returns the instance of a node.
func (s *small) instanceOf(node string) env.Instance {
	s.Helper()
	at := slices.IndexFunc(s.nodes, func(i env.Instance) bool { return i.Node == node })
	require.GreaterOrEqual(s, at, 0, node)
	return s.nodes[at]
}

// release empties the nodes and returns them. It runs after the clusters are removed.
func (s *small) release() {
	ctx := context.WithoutCancel(s.ctx)
	var group sync.WaitGroup
	for _, node := range s.nodes {
		group.Go(func() {
			if err := shared.Release(ctx, node); err != nil {
				s.Errorf("release node %s: %v", node.Node, err)
			}
		})
	}
	group.Wait()
}

// deploy makes clusters, each in a namespace of its own. Functions may look at them and move them.
func (s *small) deploy(options ...patroni.Options) []*patroni.Cluster {
	s.Helper()
	clusters, failures := make([]*patroni.Cluster, len(options)), make([]error, len(options))
	var group sync.WaitGroup
	for i, o := range options {
		o.Namespace, o.Group = s.group+"-"+o.Namespace, s.group
		group.Go(func() {
			if clusters[i], failures[i] = patroni.DeployAlone(s.ctx, shared.Lab, o); failures[i] != nil {
				failures[i] = fmt.Errorf("%s: %w", o.Namespace, failures[i])
			}
		})
	}
	group.Wait()
	for _, made := range clusters {
		if made != nil {
			s.Cleanup(func() { require.NoError(s, made.Remove(context.WithoutCancel(s.ctx))) })
		}
	}
	require.NoError(s, errors.Join(failures...))
	root, err := env.Root()
	require.NoError(s, err)
	for _, made := range clusters {
		require.NoError(s, made.Allow(s.ctx, root))
	}
	return clusters
}

func (s *small) function() *env.Function {
	s.Helper()
	function, err := shared.Function(context.Background(), fmt.Sprintf(`autoScalingGroups: [%[1]s]
mode: drain
phases:
  - name: databases
    match: {namespaces: ["%[1]s-*"]}
    escort: {postgres: {connectVia: podIP, %[2]s}}
  - name: workloads
`, s.group, pauseLimit))
	require.NoError(s, err)
	s.Cleanup(func() {
		require.NoError(s, function.Close())
		if s.Failed() {
			s.Logf("the function's log:\n%s", function.Output())
		}
	})
	return function
}

// planOfLeader returns what a plan says of the cluster's leader.
func (s *small) planOfLeader(function *env.Function, of *patroni.Cluster) string {
	s.Helper()
	leader, err := of.LeaderName(s.ctx)
	require.NoError(s, err)
	return s.plan(function, of, leader)
}

// planOfReplica returns what a plan says of the cluster's only replica.
func (s *small) planOfReplica(function *env.Function, of *patroni.Cluster) string {
	s.Helper()
	replica, err := of.Candidate(s.ctx)
	require.NoError(s, err)
	return s.plan(function, of, replica)
}

func (s *small) plan(function *env.Function, of *patroni.Cluster, member string) string {
	s.Helper()
	pod, err := of.Member(s.ctx, member)
	require.NoError(s, err)
	var report termination.Report
	s.invoke(function, fmt.Appendf(nil, `{"action":"plan","node":%q}`, pod.Spec.NodeName), &report)
	for _, p := range report.Pods {
		if p.Namespace == pod.Namespace && p.Name == member {
			s.Logf("%s/%s: %s", p.Namespace, p.Name, strings.Join(p.Warnings, " "))
			return strings.Join(p.Warnings, " ")
		}
	}
	s.Fatalf("no pod %s/%s in %+v", pod.Namespace, member, report)
	return ""
}

// requirePlan requires that a plan soon says this. One answer that is late changes what a plan knows, and so its text.
func (s *small) requirePlan(pattern string, plan func(*env.Function, *patroni.Cluster) string, function *env.Function, of *patroni.Cluster) {
	s.Helper()
	s.until("a plan with "+pattern, func() (bool, string) {
		text := plan(function, of)
		return regexp.MustCompile(pattern).MatchString(text), text
	})
}

// requireHeld requires that a switchover is soon held for this reason.
func (s *small) requireHeld(reason string, function *env.Function, of *patroni.Cluster) {
	s.Helper()
	s.until("a hold because "+reason, func() (bool, string) {
		held := s.switchover(function, of, termination.StatusHeld)
		return strings.Contains(held, reason), held
	})
}

// switchover asks for one until it ends like this, and returns the reason.
func (s *small) switchover(function *env.Function, of *patroni.Cluster, want termination.Status) string {
	s.Helper()
	request := fmt.Appendf(nil, `{"action":"switchover","cluster":"%s/%s"}`, of.Namespace, of.Scope())
	for range maxTries {
		var report termination.SwitchoverReport
		s.invoke(function, request, &report)
		s.Logf("%s: %s %s", of.Namespace, report.Status, report.Reason)
		if report.Status == want {
			return report.Reason
		}
		require.Equal(s, termination.StatusHeld, report.Status, "%+v", report)
		require.NoError(s, poolers.Wait(s.ctx, time.Second))
	}
	s.Fatalf("the switchover of %s did not end with %s", of.Namespace, want)
	return ""
}
