package e2e

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
)

// readOnlyCalls are the AWS calls that change nothing.
var readOnlyCalls = []string{
	"DescribeAutoScalingGroups", "DescribeAutoScalingInstances", "DescribeLifecycleHooks", "DescribeInstances",
	"DescribeScalingActivities", "DescribeWarmPool", "DescribeSpotInstanceRequests", "DescribeCluster", "GetCallerIdentity",
}

// Operators read a plan before they trust a drain in production. It must be complete and must change nothing.
func TestPlan_PodsOfEachKind_CompleteAndReadOnly(t *testing.T) {
	s := newFixture(t, 1)
	target := s.instances[0]
	s.createPodsOfEachKind(target)
	for _, request := range []object{
		{"action": "plan", "instanceId": target.ID},
		{"action": "plan", "node": target.Node},
	} {
		r := s.invoke(request)
		require.Empty(t, r.ErrorType, r.ErrorMessage)
		require.Equal(t, termination.StatusPlanned, r.Status)
		require.Equal(t, target.ID, r.InstanceID)
		require.Equal(t, target.Node, r.Node)
		require.Equal(t, s.group, r.Group)
		require.Empty(t, r.LifecycleResult)
		s.requirePlannedPods(r)
		s.requirePlannedPDBs(r)
		s.requirePlannedDeadline(r)
	}
	require.Empty(t, writes(s.requests(s.function)))
	s.requireOnlyCalls(readOnlyCalls...)
	require.Equal(t, "InService", s.AWS.State(target.ID))
}

// createPodsOfEachKind puts a pod of each kind on the node, and a PDB on two of them.
func (s *fixture) createPodsOfEachKind(i env.Instance) {
	s.Helper()
	s.deploy("web", 1)
	s.deploy("single", 1, func(d *appsv1.Deployment) { d.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(90)) })
	s.runPodOn(i, "pooler", labeled("app.kubernetes.io/name", "pgbouncer"))
	s.runPodOn(i, "system", func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-cluster-critical" })
	s.runPodOn(i, "careful", annotated("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"))
	s.runPodOn(i, "stays", annotated("quiesce/drain", "false"))
	s.finishedJob("finished")
	s.daemonSet("agent")
	s.pdb("web", "web", 1)
	s.pdb("single", "single", 0)
}

func (s *fixture) requirePlannedPods(r report) {
	s.Helper()
	type line struct {
		phase   string
		verdict drain.Verdict
		reason  string
	}
	planned := map[string]line{}
	for _, p := range r.Pods {
		require.Empty(s, p.Outcome)
		planned[s.appOf(p)] = line{p.Phase, p.Verdict, p.Reason}
	}
	require.Equal(s, map[string]line{
		"pooler":   {"poolers", drain.Evict, ""},
		"web":      {"workloads", drain.Evict, ""},
		"single":   {"workloads", drain.Evict, ""},
		"careful":  {"workloads", drain.Hold, "annotated cluster-autoscaler.kubernetes.io/safe-to-evict=false"},
		"stays":    {"workloads", drain.Skip, "annotated quiesce/drain=false"},
		"finished": {"workloads", drain.Skip, "finished: nothing runs in it"},
		"agent":    {"workloads", drain.Skip, "DaemonSet: would return to this node at once"},
		"system":   {"critical", drain.Evict, ""},
	}, planned)
}

func (s *fixture) requirePlannedPDBs(r report) {
	s.Helper()
	pods := map[string]string{}
	for _, p := range r.Pods {
		pods[s.appOf(p)] = p.Namespace + "/" + p.Name
		if s.appOf(p) == "single" {
			require.Equal(s, []string{s.group + "/single"}, p.BlockedBy)
		} else {
			require.Empty(s, p.BlockedBy)
		}
	}
	require.Equal(s, []drain.PDB{
		{
			Name: s.group + "/single", DisruptionsAllowed: 0, CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 1, Pods: []string{pods["single"]},
			NeverReason: "can never allow a disruption: wants 1 healthy pods of 1",
		},
		{Name: s.group + "/web", DisruptionsAllowed: 1, CurrentHealthy: 1, DesiredHealthy: 0, ExpectedPods: 1, Pods: []string{pods["web"]}},
	}, r.Plan.PDBs)
}

// requirePlannedDeadline requires the default durations, the timeouts of the environment's hook, and the longest grace of the
// pods to evict.
func (s *fixture) requirePlannedDeadline(r report) {
	s.Helper()
	d := r.Plan.Deadline
	require.Equal(s, 1800.0, d.MaxDurationSeconds)
	require.Equal(s, 30.0, d.CompletionReserveSeconds)
	require.Equal(s, 300.0, d.HeartbeatTimeoutSeconds)
	require.Equal(s, 30000.0, d.GlobalTimeoutSeconds)
	require.InDelta(s, d.MaxDurationSeconds-d.CompletionReserveSeconds, d.AvailableSeconds, 0.001)
	require.Equal(s, 90.0, d.LongestGraceSeconds)
}

// One mistyped digit would drain the wrong instance.
func TestManualDrain_InstanceNotWaiting_Rejected(t *testing.T) {
	s := newFixture(t, 1)
	target := s.instances[0]
	s.runPodOn(target, "pod", stopsAfter("100ms"))
	byHand := object{"action": "drain", "instanceId": target.ID}
	r := s.invoke(byHand)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusRejected, r.Status)
	require.Contains(t, r.Reason, "allowManualDrain is off")
	require.Empty(t, writes(s.requests(s.function)))
	s.requireOnlyCalls(readOnlyCalls...)

	s.terminate(target) // its event is lost
	r = s.invoke(byHand)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	require.Empty(t, s.podsOn(target))
	s.requireCompletedOnce(target)
}

// A drill drains as a real event would, and must not complete an action that never began.
func TestManualDrain_AllowedInService_CompletesNothing(t *testing.T) {
	s := newFixture(t, 1, "allowManualDrain: true")
	target := s.instances[0]
	s.runPodOn(target, "pod", stopsAfter("100ms"))
	r := s.invoke(object{"action": "drain", "instanceId": target.ID})
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status)
	require.Empty(t, r.LifecycleResult)
	require.Empty(t, s.podsOn(target))
	require.True(t, s.node(target).Spec.Unschedulable)
	require.Equal(t, "InService", s.AWS.State(target.ID))
	// If Auto Scaling terminates the instance meanwhile, only this drain keeps its action alive.
	s.requireOnlyCalls(append(slices.Clone(readOnlyCalls), "RecordLifecycleActionHeartbeat")...)
}

// Shadow mode lets a team try quiesce in production. It must change nothing in the cluster and must not delay Auto Scaling.
func TestShadowMode_Event_PlannedAndCompleted(t *testing.T) {
	s := newFixture(t, 2, "mode: shadow")
	target := s.instances[0]
	s.deploy("web", 6)
	pods := s.podsOn(target)
	require.NotEmpty(t, pods)
	r := s.drain(target)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusPlanned, r.Status)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	require.Len(t, r.Pods, len(pods))
	for _, p := range r.Pods {
		require.Equal(t, drain.Evict, p.Verdict)
		require.Empty(t, p.Outcome)
	}
	require.Empty(t, writes(s.requests(s.function)))
	require.Equal(t, uids(pods), uids(s.podsOn(target)))
	s.requireCompletedOnce(target)
	s.requireOnlyCalls(append(slices.Clone(readOnlyCalls), "CompleteLifecycleAction")...)
	require.Empty(t, s.AWS.Heartbeats(target.ID))
	require.Equal(t, awstest.Continue, s.AWS.Completions(target.ID)[0].Result)
}
