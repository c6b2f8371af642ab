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

// reads are the calls to AWS that change nothing there.
var reads = []string{
	"DescribeAutoScalingGroups", "DescribeAutoScalingInstances", "DescribeLifecycleHooks", "DescribeInstances",
	"DescribeCluster", "GetCallerIdentity",
}

// A plan is what somebody reads before they trust a drain with production: it must tell the whole truth, and cost nothing.
func TestAPlanTellsEverythingAndChangesNothing(t *testing.T) {
	s := setScene(t, 1)
	victim := s.instances[0]
	s.furnish(victim)
	for _, request := range []object{
		{"action": "plan", "instanceId": victim.ID},
		{"action": "plan", "node": victim.Node},
	} {
		r := s.invoke(request)
		require.Empty(t, r.ErrorType, r.ErrorMessage)
		require.Equal(t, termination.StatusPlanned, r.Status)
		require.Equal(t, victim.ID, r.InstanceID)
		require.Equal(t, victim.Node, r.Node)
		require.Equal(t, s.group, r.Group)
		require.Empty(t, r.LifecycleResult)
		s.plansEach(r)
		s.plansBudgets(r)
		s.plansTime(r)
	}
	require.Empty(t, writes(s.requests(s.function)))
	s.sentOnly(reads...)
	require.Equal(t, "InService", s.AWS.State(victim.ID))
}

// furnish puts a pod of each kind on the node, and budgets over two of them.
func (s *scene) furnish(i env.Instance) {
	s.Helper()
	s.deploy("web", 1)
	s.deploy("single", 1, func(d *appsv1.Deployment) { d.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(90)) })
	s.podOn(i, "pooler", labelled("app.kubernetes.io/name", "pgbouncer"))
	s.podOn(i, "system", func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-cluster-critical" })
	s.podOn(i, "careful", annotated("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"))
	s.podOn(i, "stays", annotated("quiesce/drain", "false"))
	s.finishedJob("finished")
	s.daemonSet("agent")
	s.budget("web", "web", 1)
	s.budget("single", "single", 0)
}

func (s *scene) plansEach(r report) {
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

func (s *scene) plansBudgets(r report) {
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

// plansTime: the defaults, the stage's hook, and the longest grace of those that are to be evicted.
func (s *scene) plansTime(r report) {
	s.Helper()
	d := r.Plan.Deadline
	require.Equal(s, 1800.0, d.MaxDurationSeconds)
	require.Equal(s, 30.0, d.CompletionReserveSeconds)
	require.Equal(s, 300.0, d.HeartbeatTimeoutSeconds)
	require.Equal(s, 30000.0, d.GlobalTimeoutSeconds)
	require.InDelta(s, d.MaxDurationSeconds-d.CompletionReserveSeconds, d.AvailableSeconds, 0.001)
	require.Equal(s, 90.0, d.LongestGraceSeconds)
}

// By hand, a drain of the wrong instance is one mistyped digit away.
func TestADrainByHandIsRefusedUnlessTheInstanceWaits(t *testing.T) {
	s := setScene(t, 1)
	victim := s.instances[0]
	s.podOn(victim, "pod", stopsAfter("100ms"))
	byHand := object{"action": "drain", "instanceId": victim.ID}
	r := s.invoke(byHand)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusRejected, r.Status)
	require.Contains(t, r.Reason, "allowManualDrain is off")
	require.Empty(t, writes(s.requests(s.function)))
	s.sentOnly(reads...)

	s.terminate(victim) // and its event is lost
	r = s.invoke(byHand)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	require.Empty(t, s.podsOn(victim))
	s.completedOnce(victim)
}

// A drill must drain as a real event would, and must not claim to have ended what never began.
func TestADrillDrainsAndCompletesNothing(t *testing.T) {
	s := setScene(t, 1, "allowManualDrain: true")
	victim := s.instances[0]
	s.podOn(victim, "pod", stopsAfter("100ms"))
	r := s.invoke(object{"action": "drain", "instanceId": victim.ID})
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status)
	require.Empty(t, r.LifecycleResult)
	require.Empty(t, s.podsOn(victim))
	require.True(t, s.node(victim).Spec.Unschedulable)
	require.Equal(t, "InService", s.AWS.State(victim.ID))
	// Should Auto Scaling want the instance meanwhile, nobody else would keep its action alive.
	s.sentOnly(append(slices.Clone(reads), "RecordLifecycleActionHeartbeat")...)
}

// Shadow mode is how a team tries this out in production: whatever it is told, it must leave the cluster as it is, and not
// hold up Auto Scaling by one moment.
func TestInShadowModeAnEventIsPlannedAndTheInstanceLetGo(t *testing.T) {
	s := setScene(t, 2, "mode: shadow")
	victim := s.instances[0]
	s.deploy("web", 6)
	pods := s.podsOn(victim)
	require.NotEmpty(t, pods)
	r := s.drain(victim)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusPlanned, r.Status)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	require.Len(t, r.Pods, len(pods))
	for _, p := range r.Pods {
		require.Equal(t, drain.Evict, p.Verdict)
		require.Empty(t, p.Outcome)
	}
	require.Empty(t, writes(s.requests(s.function)))
	require.Equal(t, uids(pods), uids(s.podsOn(victim)))
	s.completedOnce(victim)
	s.sentOnly(append(slices.Clone(reads), "CompleteLifecycleAction")...)
	require.Empty(t, s.AWS.Heartbeats(victim.ID))
	require.Equal(t, awstest.Continue, s.AWS.Completions(victim.ID)[0].Result)
}
