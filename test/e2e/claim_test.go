package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
)

// nodeNotFound is the status of a termination whose instance has no node in the cluster.
const nodeNotFound termination.Status = "node-not-found"

// otherInstance is an instance that EC2 does not know.
var otherInstance = env.Instance{ID: "i-0123456789abcdef0", Zone: awstest.Region + "a"}

// instanceKnownTo adds an instance to the fixture's group, with the name and address that EC2 knows, and no node.
func (s *fixture) instanceKnownTo(name, ip string) env.Instance {
	i := env.Instance{ID: fmt.Sprintf("i-%017x", 1<<33+int(fixtures.Add(1))), Node: name, Zone: awstest.Region + "a", IP: ip}
	s.AWS.AddInstance(s.group, awstest.Instance{
		ID: i.ID, Zone: i.Zone, PrivateDNS: name, PrivateIP: ip, LaunchedAt: time.Now().Add(-24 * time.Hour),
	})
	return i
}

// A restored snapshot, a kubelet with a new name, or a tenant's kubelet can leave two Node objects for one instance. Pods of the one
// that is not drained would be killed without SIGTERM.
func TestFindNode_TwoClaimants_BothDrained(t *testing.T) {
	s := newFixture(t, 0)
	target := s.instanceKnownTo("custom-"+s.group, "10.9.1.1")
	first, second := target, target
	first.Node, second.Node = "a-"+s.group, "b-"+s.group
	s.joinNode(first, lab.Node{Name: first.Node, IP: "10.9.1.2"})
	s.joinNode(second, lab.Node{Name: second.Node, IP: "10.9.1.1"})
	s.runPodOn(first, "on-first", stopsAfter("1s"))
	s.runPodOn(second, "on-second", stopsAfter("1s"))

	r := s.drain(target)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	for _, claimant := range []env.Instance{first, second} {
		require.Empty(t, s.podsOn(claimant), claimant.Node)
		require.True(t, s.node(claimant).Spec.Unschedulable, claimant.Node)
		require.Contains(t, r.Reason, claimant.Node, "the report names the ambiguity")
	}
	require.Equal(t, second.Node, r.Node, "EC2 confirms its address")
	require.Len(t, s.evictions("on-first"), 1)
	require.Len(t, s.evictions("on-second"), 1)
	s.requireCompletedOnce(target)
}

// The name that EC2 gives an instance can belong to the Node object of its predecessor. Whatever runs there is not ours to stop, and
// the result must not look like a drain.
func TestFindNode_NamedNodeIsAnothers_NotFound(t *testing.T) {
	s := newFixture(t, 0, "drain: {nodeJoinTimeout: 1s}")
	target := s.instanceKnownTo("ip-"+s.group, "10.9.2.1")
	s.joinNode(otherInstance, lab.Node{Name: target.Node, IP: "10.9.2.2"})
	s.runPodOn(target, "pod")

	r := s.drain(target)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, nodeNotFound, r.Status)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	require.Empty(t, s.evictions(""))
	require.False(t, s.node(target).Spec.Unschedulable)
	s.requireCompletedOnce(target)
}

// The same Node object, with the address of the instance: only its providerID is stale. Its pods die with the instance.
func TestFindNode_StaleProviderID_FoundByAddress(t *testing.T) {
	s := newFixture(t, 0)
	target := s.instanceKnownTo("ip-"+s.group, "10.9.3.1")
	s.joinNode(otherInstance, lab.Node{Name: target.Node, IP: target.IP})
	for n := range 3 {
		s.runPodOn(target, fmt.Sprint("pod-", n), stopsAfter("100ms"))
	}

	r := s.drain(target)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status)
	require.Equal(t, target.Node, r.Node)
	require.Empty(t, s.podsOn(target))
	require.Len(t, s.evictions(""), 3)
	s.requireCompletedOnce(target)
}

// A group that is paired with the wrong cluster loses its pods with each instance. A status that says "drained" hides that for ever.
func TestFindNode_GroupOfOtherCluster_NotFound(t *testing.T) {
	s := newFixture(t, 0, "drain: {nodeJoinTimeout: 1s}")
	target := s.instanceKnownTo("ip-"+s.group, "10.9.4.1")
	r := s.drain(target)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, nodeNotFound, r.Status)
	require.Contains(t, r.Reason, "no node")
	require.Equal(t, []float64{1}, s.metric("Drains", "Status", string(nodeNotFound)))
	s.requireCompletedOnce(target)
}
