package termination

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

var allSteps = []string{"groups", "hooks", "queue", "cluster", "leases", "nodes", "pods", "eviction"}

// checkEnv has one group with an instance in service, whose node has one pod.
func checkEnv() (*testEnv, *Handler) {
	env := newTestEnv()
	env.state = inService
	env.node.Add(drain.Pod{Ref: drain.Ref{Namespace: "default", Name: "web", UID: "uid-web"}}, time.Second)
	h, _ := env.withQueue()
	h.NextStep = func(err error) string { return "mend " + err.Error() }
	return env, h
}

// checkOnce runs one check, and requires that each step was tried.
func checkOnce(t *testing.T, h *Handler) CheckReport {
	t.Helper()
	h.Parse = func([]byte) Delivery { return Delivery{Records: []Record{{Request: &Request{Action: ActionCheck}}}} }
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	answer, err := h.Invoke(ctx, nil)
	require.NoError(t, err, "Lambda would drop the steps of an error")
	report := answer.(CheckReport)
	var names []string
	for _, s := range report.Steps {
		names = append(names, s.Name)
		require.NotEmpty(t, s.Detail, s.Name)
		require.Equal(t, s.OK, s.Next == "", "%s: a failed step says what to do", s.Name)
	}
	require.Equal(t, allSteps, names)
	require.Equal(t, len(report.Failed()) > 0, report.Status == StatusFailed)
	return report
}

func stepNamed(t *testing.T, r CheckReport, name string) CheckStep {
	t.Helper()
	for _, s := range r.Steps {
		if s.Name == name {
			return s
		}
	}
	require.Fail(t, "no step "+name)
	return CheckStep{}
}

func TestCheck_PathWorks_ChangesNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := checkEnv()
		all := &fakeMetrics{}
		h.Metrics, h.Version = all, "1.2.3"
		report := checkOnce(t, h)
		require.Equal(t, StatusChecked, report.Status)
		require.Equal(t, "1.2.3", report.Version)
		require.Equal(t, "hook quiesce in all 1 groups", stepNamed(t, report, "hooks").Detail)
		require.Equal(t, "i-0abc1234 is node-i-0abc1234", stepNamed(t, report, "nodes").Detail)
		require.Equal(t, "default/web could be evicted", stepNamed(t, report, "eviction").Detail)
		require.Empty(t, env.effects())
		require.Len(t, env.node.Pods(), 1)
		require.Equal(t, []CheckReport{report}, all.checks)
	})
}

// A person who mends one thing and finds the next an hour later gives up.
func TestCheck_StepFails_OthersAreTried(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*testEnv, *Handler)
		failed []string
		detail string // of the first one
		next   string
	}{
		{"groups", func(env *testEnv, _ *Handler) { env.errors["groups"] = []error{errors.New("denied")} }, []string{"groups"}, "denied", "mend denied"},
		{"no group", func(_ *testEnv, h *Handler) { h.Policy.Owns = func(string, map[string]string) bool { return false } }, []string{"groups", "hooks"},
			"no group of this account and region is ours",
			"correct autoScalingGroups in quiesce.yaml, then make deploy; with a stack of a release, tag the group (infra/README.md)"},
		{"group gone", func(_ *testEnv, h *Handler) { h.Policy.GroupNames = []string{"workers-a", "workers-z"} }, []string{"groups"},
			"there is no group workers-z", "correct autoScalingGroups in quiesce.yaml, then make deploy"},
		{"hook", func(env *testEnv, _ *Handler) { env.failAlways("hook", errors.New("denied")) }, []string{"hooks"},
			"1 of 1 hooks: denied", "mend 1 of 1 hooks: denied"},
		{"no hook", func(env *testEnv, _ *Handler) { env.failAlways("hook", fmt.Errorf("workers-a: %w", ErrNoHook)) }, []string{"hooks"},
			"1 of 1 groups have no hook quiesce: workers-a", "add the hook to each of these groups with the command in the output HooksByHand"},
		{"connect", func(env *testEnv, _ *Handler) { env.failAlways("connect", errors.New("no such cluster")) },
			[]string{"cluster", "leases", "nodes", "pods", "eviction"}, "no such cluster", "mend no such cluster"},
		{"leases", func(env *testEnv, _ *Handler) { env.failAlways("leases", errors.New("forbidden")) }, []string{"leases"}, "forbidden", "mend forbidden"},
		{"ec2", func(env *testEnv, _ *Handler) { env.failAlways("ec2", errors.New("denied")) }, []string{"nodes", "pods", "eviction"}, "denied", "mend denied"},
		{"nodes", func(env *testEnv, _ *Handler) { env.failAlways("find", errors.New("forbidden")) }, []string{"nodes", "pods", "eviction"}, "forbidden", "mend forbidden"},
		{"no node", func(env *testEnv, _ *Handler) { env.node = nil }, []string{"nodes", "pods", "eviction"}, "no node of the cluster is one of i-0abc1234",
			"correct cluster or autoScalingGroups in quiesce.yaml: the groups may belong to another cluster"},
		{"pods", func(env *testEnv, _ *Handler) { env.failAlways("watch", errors.New("forbidden")) }, []string{"pods", "eviction"}, "forbidden", "mend forbidden"},
		{"eviction", func(env *testEnv, _ *Handler) { env.node.Fail("default/web", errors.New("forbidden")) }, []string{"eviction"},
			"evict default/web as a dry run: forbidden", "mend evict default/web as a dry run: forbidden"},
		{"webhook", func(env *testEnv, _ *Handler) { env.node.Fail("default/web", &drain.Refused{Reason: "never"}) }, []string{"eviction"},
			"evict default/web as a dry run: refused: never",
			"look at the webhook or policy that denies: drains wait for it, and delete the pods at their deadlines"},
		{"our policy", func(env *testEnv, _ *Handler) {
			env.node.Fail("default/web", &drain.Refused{Reason: "ValidatingAdmissionPolicy 'quiesce-evictions' with binding 'x' denied"})
		}, []string{"eviction"}, "evict default/web as a dry run: refused: ValidatingAdmissionPolicy 'quiesce-evictions' with binding 'x' denied",
			"kubectl apply -f infra/rbac.yaml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				env, h := checkEnv()
				c.change(env, h)
				report := checkOnce(t, h)
				require.Equal(t, c.failed, report.Failed())
				first := stepNamed(t, report, c.failed[0])
				require.Equal(t, c.detail, first.Detail)
				require.Equal(t, c.next, first.Next)
				for _, other := range c.failed[1:] {
					require.Contains(t, stepNamed(t, report, other).Detail, "not tried: it needs the step ")
				}
			})
		})
	}
}

// The PDB is asked after permissions and policies. So its answer shows that those are right.
func TestCheck_PDBBlocks_Succeeds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := checkEnv()
		env.node.Fail("default/web", &drain.Blocked{PDBs: []string{"default/web"}, Reason: "needs 1 healthy pod"})
		report := checkOnce(t, h)
		require.Equal(t, StatusChecked, report.Status)
		require.Equal(t, "default/web could be evicted once its PDB allows that: needs 1 healthy pod", stepNamed(t, report, "eviction").Detail)
	})
}

// A webhook may deny evictions of its own pods. That says nothing about other pods.
func TestCheck_WebhookDeniesOnePod_AsksAboutAnother(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := checkEnv()
		env.node.Fail("default/web", &drain.Refused{Reason: "never"})
		env.node.Add(drain.Pod{Ref: drain.Ref{Namespace: "default", Name: "worker", UID: "uid-worker"}}, time.Second)
		report := checkOnce(t, h)
		require.Equal(t, StatusChecked, report.Status)
		require.Equal(t, "default/worker could be evicted", stepNamed(t, report, "eviction").Detail)
	})
}

// A group that is scaled to zero at night is no failure.
func TestCheck_NothingToAskAbout_SaysSo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := checkEnv()
		env.state = ""
		report := checkOnce(t, h)
		require.Equal(t, StatusChecked, report.Status)
		require.Equal(t, "nodes can be listed; no instance of our groups is in service", stepNamed(t, report, "nodes").Detail)
		require.Equal(t, "not tried: no instance of our groups is in service", stepNamed(t, report, "eviction").Detail)

		env.state = inService
		env.node.Remove("default/web")
		report = checkOnce(t, h)
		require.Equal(t, StatusChecked, report.Status)
		require.Equal(t, "not tried: no pod on node node-i-0abc1234 would be evicted", stepNamed(t, report, "eviction").Detail)
	})
}

// A service that accepts requests and never answers must not cost the other steps.
func TestCheck_ServiceHangs_OthersAreTried(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := checkEnv()
		env.hangs = map[string]bool{"hook": true, "watch": true}
		report := checkOnce(t, h)
		require.Equal(t, []string{"hooks", "pods", "eviction"}, report.Failed())
		require.Equal(t, hooksTimeout.Seconds(), stepNamed(t, report, "hooks").Seconds)
		require.Equal(t, stepTimeout.Seconds(), stepNamed(t, report, "pods").Seconds)
		require.Less(t, report.FinishedAt.Sub(report.StartedAt), checkTimeout)
	})
}

func TestCheck_StepPanics_OthersAreTried(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, h := checkEnv()
		h.Queue = panickingQueue{h.Queue}
		require.Equal(t, []string{"queue"}, checkOnce(t, h).Failed())
	})
}

type panickingQueue struct{ Queue }

func (panickingQueue) Backlog(context.Context) (int, int, error) { panic("a bug") }

// One request per group: a large account must not pay for the check with its heartbeats.
func TestCheck_ManyGroups_AsksAboutTheFirst(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := checkEnv()
		h.Policy.Owns = func(string, map[string]string) bool { return true }
		for n := range 499 {
			env.otherGroups = append(env.otherGroups, Group{Name: fmt.Sprint("batch-", n)})
		}
		report := checkOnce(t, h)
		require.Equal(t, "500 groups", stepNamed(t, report, "groups").Detail)
		require.Equal(t, "hook quiesce in the first 100 of 500 groups", stepNamed(t, report, "hooks").Detail)
	})
}

func TestNamed_ManyNames_FiveAreNamed(t *testing.T) {
	for names, want := range map[string]string{
		"b a":         "a, b",
		"e d c b a":   "a, b, c, d, e",
		"f e d c b a": "a, b, c, d, e and 1 more",
	} {
		require.Equal(t, want, named(strings.Fields(names)))
	}
}

// The groups that were not reached must not count as groups that have the hook.
func TestDescribeHooks_TimeIsOver_GroupsNotReachedFail(t *testing.T) {
	c := &check{Handler: newTestEnv().handler()}
	over := errors.New("time is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(over)
	require.Equal(t, []error{over, over, over}, c.describeHooks(ctx, make([]Group, 3)))
}

// watchRecorder keeps the context of the last watch.
type watchRecorder struct {
	Kubernetes
	watching context.Context
}

func (w *watchRecorder) WatchPods(ctx context.Context, n drain.Node, e drain.Effort) (drain.Cluster, error) {
	w.watching = ctx
	return w.Kubernetes.WatchPods(ctx, n, e)
}

// The next step needs the watch. One that failed must leave nothing behind.
func TestCheckWatch_Listed_WatchOutlastsTheStep(t *testing.T) {
	for _, failure := range []error{nil, errors.New("forbidden")} {
		env := newTestEnv()
		env.errors["watch"] = []error{failure}
		recorder := &watchRecorder{Kubernetes: env}
		c := &check{Handler: env.handler(), cluster: recorder}
		step, end := context.WithCancel(t.Context())
		_, err := c.watch(t.Context(), step, drain.Node{Name: "node-1"})
		require.Equal(t, failure, err)
		end()
		require.Equal(t, failure == nil, recorder.watching.Err() == nil, failure)
	}
}

// loseNode makes the cluster of h one in which an instance has no node.
func loseNode(h *Handler, id string) {
	connect := h.Connect
	h.Connect = func(ctx context.Context) (Kubernetes, error) {
		cluster, err := connect(ctx)
		return withoutNode{cluster, id}, err
	}
}

// withoutNode is a cluster in which one instance has no node.
type withoutNode struct {
	Kubernetes
	id string
}

func (k withoutNode) FindNodes(ctx context.Context, id string, known EC2Instance) (FoundNodes, error) {
	if id == k.id {
		return FoundNodes{}, nil
	}
	return k.Kubernetes.FindNodes(ctx, id, known)
}

// An instance that is new, or that never joined, says nothing about its group.
func TestCheck_InstanceWithoutNode_AsksAboutAnother(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := checkEnv()
		env.peers = []Instance{{ID: "i-never-joined", State: inService}} // before ours
		loseNode(h, "i-never-joined")
		report := checkOnce(t, h)
		require.Equal(t, StatusChecked, report.Status)
		require.Equal(t, "i-0abc1234 is node-i-0abc1234", stepNamed(t, report, "nodes").Detail)
	})
}

func TestCheck_OnlyNewInstances_NeedNoNode(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := checkEnv()
		loseNode(h, event.InstanceID)
		for age, failed := range map[time.Duration][]string{newInstanceAge - time.Second: nil, newInstanceAge: {"nodes", "pods", "eviction"}} {
			env.launched = time.Now().Add(-age)
			require.Equal(t, failed, checkOnce(t, h).Failed(), age)
		}
		env.launched = time.Now()
		report := checkOnce(t, h)
		require.Equal(t, "nodes can be listed; the instances in service are new, and have no nodes yet: i-0abc1234", stepNamed(t, report, "nodes").Detail)
		require.Equal(t, "not tried: the instances in service are new, and have no nodes yet: i-0abc1234", stepNamed(t, report, "eviction").Detail)
	})
}

// A group is created before its hook.
func TestCheck_NewGroupWithoutHook_Succeeds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env, h := checkEnv()
		h.Policy.Owns = func(string, map[string]string) bool { return true }
		for age, failed := range map[time.Duration][]string{2 * time.Minute: nil, 20 * time.Minute: {"hooks"}} {
			env.otherGroups = []Group{{Name: "workers-new", CreatedAt: time.Now().Add(-age)}}
			env.errors["hook-workers-new"] = []error{fmt.Errorf("workers-new: %w", ErrNoHook)}
			report := checkOnce(t, h)
			require.Equal(t, failed, report.Failed(), age)
			if failed == nil {
				require.Equal(t, "hook quiesce in all 2 groups, except new ones: workers-new", stepNamed(t, report, "hooks").Detail)
			}
		}
	})
}

func TestInstancesInService_ManyGroups_OneOfEachFirst(t *testing.T) {
	c := &check{}
	for n := range 3 {
		id := fmt.Sprint("i-", n)
		c.groups = append(c.groups, Group{Instances: []Instance{
			{ID: id + "-pending", State: "Pending"}, {ID: id, State: inService}, {ID: id + "-more", State: inService},
		}})
	}
	c.groups[1].Instances = c.groups[1].Instances[:2]
	require.Equal(t, []string{"i-0", "i-1", "i-2", "i-0-more", "i-2-more"}, c.instancesInService())
	for n := range 2 * maxDescribedInstances {
		c.groups[0].Instances = append(c.groups[0].Instances, Instance{ID: fmt.Sprint("i-many-", n), State: inService})
	}
	require.Len(t, c.instancesInService(), maxDescribedInstances)
}
