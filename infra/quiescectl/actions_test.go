package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"quiesce/internal/asg"
	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/parts/awstest"
)

var began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// answers are what a function in good order answers, by action.
var answers = map[termination.Action]any{
	termination.ActionPlan: termination.Report{
		Status: termination.StatusPlanned, Node: "node-a1", InstanceID: "i-0123456789abcdef0", Group: "workers-a", Deadline: began.Add(30 * time.Minute),
		Report: drain.Report{Pods: []drain.PodReport{
			{Namespace: "db", Name: "pgbouncer-0", Phase: "poolers", Verdict: drain.Evict, Warnings: []string{"No preStop hook."}},
			{Namespace: "kube-system", Name: "proxy-x", Phase: "workloads", Verdict: drain.Skip, Reason: "DaemonSet: would return to this node at once"},
		}},
		Plan: &termination.PlanReport{PDBs: []drain.PDB{
			{Name: "db/pgbouncer", DisruptionsAllowed: 1, CurrentHealthy: 2, DesiredHealthy: 1, ExpectedPods: 2, Pods: []string{"db/pgbouncer-0"}},
		}},
	},
	termination.ActionDrain: termination.Report{
		Status: termination.StatusDrained, Node: "node-a1", InstanceID: "i-0123456789abcdef0", Group: "workers-a", StartedAt: began,
		Report: drain.Report{Pods: []drain.PodReport{
			{
				Namespace: "db", Name: "pgbouncer-0", Phase: "poolers", Verdict: drain.Evict, Outcome: drain.Evicted, GoneAt: began.Add(9 * time.Second),
				Escort: &drain.EscortResult{Kind: "pgbouncer", Strategy: "evict", HeldBackSeconds: 0.4}, BlockedBy: []string{"db/pgbouncer"},
			},
			{Namespace: "shop", Name: "web-0", Phase: "workloads", Verdict: drain.Evict, Outcome: drain.Evicted, GoneAt: began.Add(12 * time.Second)},
		}},
	},
	termination.ActionSweep: termination.SweepReport{Status: termination.StatusSwept, Groups: 3, Waiting: 1, Draining: 1, GroupsWithoutHook: 1, WithoutHook: []string{"batch"}, ClusterReachable: true},
	termination.ActionCheck: termination.CheckReport{Status: termination.StatusChecked, Steps: []termination.CheckStep{
		{Name: "groups", OK: true, Detail: "3 groups", Seconds: 0.12}, {Name: "eviction", OK: true, Detail: "shop/web-0 could be evicted", Seconds: 0.05},
	}},
	termination.ActionSwitchover: termination.SwitchoverReport{
		Status: termination.StatusRehearsed, Cluster: "databases/orders", StartedAt: began, FinishedAt: began.Add(3 * time.Second),
		Escort: drain.EscortResult{Kind: "postgres", Strategy: "switchover", HeldBackSeconds: 1.5},
	},
	termination.ActionResume: termination.ResumeReport{Status: termination.StatusResumed, Clusters: []string{"databases/orders"}},
}

// account is an account with the function quiesce-prod.
type account struct {
	*testing.T
	*awstest.Server
	env    []string
	mutex  sync.Mutex // guards the rest
	asked  []termination.Request
	answer func(termination.Request) (answer any, functionError string)
}

func (a *account) requests() []termination.Request {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	return slices.Clone(a.asked)
}

func (a *account) answerWith(answer func(termination.Request) (answer any, functionError string)) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.answer = answer
}

func newAccount(t *testing.T) *account {
	t.Helper()
	server, err := awstest.Start()
	require.NoError(t, err)
	t.Cleanup(server.Close)
	a := &account{T: t, Server: server, env: server.Environment(server.Session("person"))}
	a.answer = func(r termination.Request) (any, string) { return answers[r.Action], "" }
	server.AddFunction("quiesce-prod", func(_ context.Context, payload []byte) ([]byte, string, error) {
		records := asg.Parse(payload).Records // as the function reads it
		if len(records) != 1 || records[0].Request == nil {
			return []byte(`{"errorType":"Malformed","errorMessage":"` + strings.ReplaceAll(string(payload), `"`, `'`) + `"}`), "Unhandled", nil
		}
		a.mutex.Lock()
		defer a.mutex.Unlock()
		a.asked = append(a.asked, *records[0].Request)
		answer, failure := a.answer(*records[0].Request)
		text, err := json.Marshal(answer)
		return text, failure, err
	})
	return a
}

func (a *account) run(args ...string) ended {
	a.Helper()
	return quiescectl(a.T, a.env, append(args, "--cluster", "prod")...)
}

func TestActions_GoodAnswer_IsATable(t *testing.T) {
	for _, c := range []struct {
		args  []string
		asked termination.Request
		out   string
	}{
		{[]string{"plan", "node-a1"}, termination.Request{Action: termination.ActionPlan, Node: "node-a1"}, `
NODE      INSTANCE              GROUP       STATUS    DEADLINE
node-a1   i-0123456789abcdef0   workers-a   planned   2026-03-01T12:30:00Z

PHASE       POD                   VERDICT   WHY
poolers     db/pgbouncer-0        evict
workloads   kube-system/proxy-x   skip      DaemonSet: would return to this node at once

db/pgbouncer-0: No preStop hook.

PDB            ALLOWED   HEALTHY   WANTED   PODS HERE   NEVER
db/pgbouncer   1         2/2       1        1           <none>
`},
		{[]string{"drain", "i-0123456789abcdef0"}, termination.Request{Action: termination.ActionDrain, InstanceID: "i-0123456789abcdef0"}, `
NODE      INSTANCE              GROUP       STATUS    DEADLINE
node-a1   i-0123456789abcdef0   workers-a   drained   <none>

PHASE       POD              OUTCOME   GONE AFTER   ESCORT                                WHY
poolers     db/pgbouncer-0   evicted   9s           pgbouncer evict, clients held 400ms   was blocked by PDB db/pgbouncer
workloads   shop/web-0       evicted   12s          <none>
`},
		{[]string{"sweep"}, termination.Request{Action: termination.ActionSweep}, `
STATUS   GROUPS   WAITING   DRAINING   HEARTBEATS   EVENTS RESENT   RESTORED   WITHOUT HOOK
swept    3        1         1          0            0               0          1

groups without the hook: batch
`},
		{[]string{"check"}, termination.Request{Action: termination.ActionCheck}, `
STEP       OK    SECONDS   DETAIL
groups     yes   0.1       3 groups
eviction   yes   0.1       shop/web-0 could be evicted
`},
		{[]string{"switchover", "databases/orders", "--rehearse", "--candidate", "orders-1"},
			termination.Request{Action: termination.ActionSwitchover, Cluster: "databases/orders", Candidate: "orders-1", Rehearse: true}, `
CLUSTER            STATUS      ESCORT                                   TOOK
databases/orders   rehearsed   postgres switchover, clients held 1.5s   3s
`},
		{[]string{"resume", "--function", "quiesce-prod"}, termination.Request{Action: termination.ActionResume}, `
STATUS    CLUSTERS           HELD
resumed   databases/orders   <none>
`},
	} {
		a := newAccount(t)
		got := a.run(c.args...)
		require.Zero(t, got.status, "%v: %s", c.args, got.progress)
		require.Equal(t, c.out[1:], got.out, c.args)
		require.Empty(t, got.progress, c.args)
		require.Equal(t, []termination.Request{c.asked}, a.requests())

		var same any
		require.NoError(t, json.Unmarshal([]byte(a.run(append(c.args, "-o", "json")...).out), &same))
		want, err := json.Marshal(answers[c.asked.Action])
		require.NoError(t, err)
		back, err := json.Marshal(same)
		require.NoError(t, err)
		require.JSONEq(t, string(want), string(back))
		require.Contains(t, a.run(append(c.args, "-o", "yaml")...).out, "status: ")
	}
}

func TestActions_PlanOfAnInstance_NamesTheInstance(t *testing.T) {
	a := newAccount(t)
	a.run("plan", "i-0123456789abcdef0")
	a.run("plan", "i-0123456789abcdef0.eu-west-1.compute.internal")
	a.run("plan", "i-node")
	require.Equal(t, []termination.Request{
		{Action: termination.ActionPlan, InstanceID: "i-0123456789abcdef0"},
		{Action: termination.ActionPlan, Node: "i-0123456789abcdef0.eu-west-1.compute.internal"}, {Action: termination.ActionPlan, Node: "i-node"},
	}, a.requests())
}

// A script learns from the exit status that somebody has to look.
func TestActions_BadAnswer_FailsWithStatusOne(t *testing.T) {
	for _, c := range []struct {
		args   []string
		answer any
		says   []string
	}{
		{[]string{"drain", "i-0123456789abcdef0"}, termination.Report{Status: termination.StatusPartial}, []string{"partial"}},
		{[]string{"drain", "i-0123456789abcdef0"}, termination.Report{Status: termination.StatusForced}, []string{"forced"}},
		{[]string{"drain", "i-0123456789abcdef0"}, termination.Report{Status: termination.StatusRejected, Reason: "allowManualDrain is off"},
			[]string{"rejected", "\nallowManualDrain is off\n"}},
		{[]string{"drain", "i-0123456789abcdef0"}, termination.Report{Status: termination.StatusSkipped, Reason: "another invocation is draining the instance"},
			[]string{"skipped", "\nanother invocation is draining the instance\n"}},
		{[]string{"drain", "i-0123456789abcdef0"}, termination.Report{Status: termination.StatusPlanned, Reason: "shadow mode: nothing was changed"},
			[]string{"planned"}},
		{[]string{"sweep"}, termination.SweepReport{Status: termination.StatusFailed, Errors: []string{"throttled"}}, []string{"\nerror: throttled\n"}},
		{
			[]string{"sweep"}, termination.SweepReport{Status: termination.StatusSwept, Errors: []string{"connection refused"}},
			[]string{"\nthe cluster could not be read: no event was sent again", "\nerror: connection refused\n"},
		},
		{
			[]string{"sweep"}, termination.SweepReport{Status: termination.StatusSwept, ClusterReachable: true, Unreached: []string{"group batch"}},
			[]string{"\nno time was left for: group batch\n"},
		},
		{[]string{"check"}, termination.CheckReport{Status: termination.StatusFailed, Steps: []termination.CheckStep{
			{Name: "leases", Detail: "forbidden", Next: "kubectl apply -f infra/rbac.yaml"},
		}}, []string{"leases   NO", "\nleases: kubectl apply -f infra/rbac.yaml\n"}},
		{[]string{"switchover", "a/b"}, termination.SwitchoverReport{Status: termination.StatusHeld, Reason: "no candidate"}, []string{"held", "\nno candidate\n"}},
		{[]string{"resume", "--function", "quiesce-prod"}, termination.ResumeReport{Status: termination.StatusFailed, Reason: "no login"}, []string{"failed   <none>", "\nno login\n"}},
		{
			[]string{"resume", "--function", "quiesce-prod"},
			termination.ResumeReport{Status: termination.StatusHeld, Held: []string{"databases/orders"}, Reason: "ask again"}, []string{"held     <none>     databases/orders", "\nask again\n"},
		},
	} {
		a := newAccount(t)
		a.answerWith(func(termination.Request) (any, string) { return c.answer, "" })
		got := a.run(c.args...)
		require.Equal(t, exitFindings, got.status, c.args)
		for _, text := range c.says {
			require.Contains(t, got.out, text, c.args)
		}
	}
}

func TestActions_NoAnswer_SaysWhatToDo(t *testing.T) {
	a := newAccount(t)
	failure := func(kind, message string) func(termination.Request) (any, string) {
		return func(termination.Request) (any, string) {
			return map[string]string{"errorType": kind, "errorMessage": message}, "Unhandled"
		}
	}
	for _, c := range []struct {
		answer func(termination.Request) (any, string)
		args   []string
		says   string
	}{
		{failure("Incomplete", "2 pods remain"), []string{"drain", "i-0123456789abcdef0"}, "Incomplete: 2 pods remain\nif the instance waits on the hook, a later invocation continues the drain: follow its log; otherwise run the command again"},
		{failure("Failed", "no lease"), []string{"sweep"}, "Failed: no lease\nsee its log, and infra/RUNBOOK.md"},
		{nil, []string{"plan", "Not_A_Node"}, "Malformed: "},
		{nil, []string{"sweep", "--function", "other"}, "there is no function other:live in eu-west-1: name it with --function"},
		{func(termination.Request) (any, string) { return []string{"text"}, "" }, []string{"sweep"}, "the function has answered in a form that this version does not know"},
		{nil, []string{"plan"}, "quiescectl plan needs one argument, not 0\nfor example:\n  quiescectl plan ip-10-0-1-2"},
		{nil, []string{"switchover", "orders"}, "switchover needs a database as NAMESPACE/CLUSTER, such as databases/orders, not \"orders\""},
		{nil, []string{"sweep", "now"}, "unknown command"},
	} {
		if a.answerWith(c.answer); c.answer == nil {
			a.answerWith(func(r termination.Request) (any, string) { return answers[r.Action], "" })
		}
		got := a.run(c.args...)
		require.Equal(t, exitError, got.status, c.args)
		require.Contains(t, got.progress, c.says, c.args)
		require.Empty(t, got.out, c.args)
	}
	unnamed := quiescectl(t, a.env, "sweep")
	require.Equal(t, exitError, unnamed.status)
	require.Contains(t, unnamed.progress, "name it with --cluster, or the function with --function")
	mistyped := quiescectl(t, a.env, "sweep", "--context", "prdo")
	require.Contains(t, mistyped.progress, `context "prdo" does not exist`)
}

// The function does not end with the wait for it.
func TestActions_Interrupted_SaysThatTheFunctionGoesOn(t *testing.T) {
	a := newAccount(t)
	asked, over := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(over) })
	a.answerWith(func(termination.Request) (any, string) {
		close(asked)
		<-over
		return nil, ""
	})
	command := exec.Command(binary, "drain", "i-0123456789abcdef0", "--cluster", "prod")
	command.Env = append([]string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}, a.env...)
	var progress bytes.Buffer
	command.Stderr = &progress
	require.NoError(t, command.Start())
	select {
	case <-asked:
	case <-time.After(time.Minute):
		_ = command.Process.Kill()
		t.Fatal("the function was not asked:", progress.String())
	}
	require.NoError(t, command.Process.Signal(os.Interrupt))
	_ = command.Wait() // its exit status is not zero
	require.Equal(t, exitError, command.ProcessState.ExitCode())
	require.Contains(t, progress.String(), "stopped waiting for function quiesce-prod:live, which goes on if it was reached: quiescectl watch shows the drains that run")
	require.NotContains(t, progress.String(), "network")
}

func TestNoteVersion_OtherCommit_IsSaid(t *testing.T) {
	t.Cleanup(func(v, c string) func() { return func() { version, commit = v, c } }(version, commit))
	said := func(ofFunction, built string) string {
		var b strings.Builder
		noteVersion(&b, ofFunction, built)
		return b.String()
	}
	require.Empty(t, said("v1", "abc"), "this build does not know its commit")
	version, commit = "v2", "def"
	require.Equal(t, "note: the function is version v1 (commit abc), and this quiescectl is v2 (commit def): build it from the function's commit\n", said("v1", "abc"))
	require.Empty(t, said("v2", "def"))
	require.Empty(t, said("", ""))
	require.Empty(t, said("dev", "unknown"))
}

// A cluster of the same name may be in another region, with a function of the same name.
func TestFunctionName_FromTheContext_RegionToo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	entry := "arn:aws:eks:eu-west-1:111122223333:cluster/prod"
	require.NoError(t, clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{entry: {Server: "https://127.0.0.1:1"}},
		Contexts:       map[string]*clientcmdapi.Context{"prod-eu": {Cluster: entry}},
		CurrentContext: "prod-eu",
	}, file))
	for name, c := range map[string]struct {
		options      options
		name, region string
	}{
		"the context": {options{}, "quiesce-prod:live", "eu-west-1"},
		"--cluster":   {options{cluster: "prod"}, "quiesce-prod:live", ""},
		"--function":  {options{function: "mine"}, "mine:live", ""},
	} {
		c.options.kubeconfig = file
		function, region, err := c.options.functionName()
		require.NoError(t, err, name)
		require.Equal(t, c.name, function, name)
		require.Equal(t, c.region, region, name)
	}
}

func TestActions_Function_IsThatOfTheStack(t *testing.T) {
	name, _, err := (&options{cluster: "my-cluster"}).functionName()
	require.NoError(t, err)
	require.Equal(t, "quiesce-my-cluster:live", name)
	name, _, err = (&options{cluster: "prod", function: "mine:blue"}).functionName()
	require.NoError(t, err)
	require.Equal(t, "mine:blue", name)
}
