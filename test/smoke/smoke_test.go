package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
)

const (
	// labPoll is how often a run on the lab asks. It is short, as all answers come from this machine.
	labPoll = 50 * time.Millisecond
	// shellImage is an image of the lab that has a shell.
	shellImage = "localhost/pgbouncer:1.24"
	// runTimeout bounds a run on the lab, which takes seconds.
	runTimeout = 3 * time.Minute
)

// account is a scratch account: the lab's endpoints, a group, and what stands for CloudFormation and EC2.
type account struct {
	*testing.T
	*env.Env
	group    string
	change   func(configuration string) string // of the configuration that is deployed
	stop     func()                            // ends what deploy started
	target   func() string                     // the instance that is terminated
	deployed int
	deleted  int
}

// TestSmoke_OnTheLab_JudgesAndCleansUp runs the smoke test against the lab's endpoints. One lab serves all runs, one after the other: each cluster has
// one deployment, and one namespace of test pods.
func TestSmoke_OnTheLab_JudgesAndCleansUp(t *testing.T) {
	lab.Require(t)
	on := startEnv(t, false)
	t.Run("a function that drains passes", func(t *testing.T) { testPasses(newAccount(t, on, "passes")) })
	t.Run("a function in shadow mode fails", func(t *testing.T) { testShadowFails(newAccount(t, on, "shadow")) })
	t.Run("an interrupt cleans up", func(t *testing.T) { testInterrupted(newAccount(t, on, "interrupted")) })
	t.Run("a deployment that fails is cleaned up", func(t *testing.T) { testDeployFails(newAccount(t, on, "undeployed")) })
}

// On real nodes, the test pods really get SIGTERM.
func TestSmoke_RealNodes_Passes(t *testing.T) {
	lab.RequireMachines(t)
	testPasses(newAccount(t, startEnv(t, true), "machines"))
}

// terminationDelay is how long a released instance takes to end: longer than a busy machine needs to look at its pods once.
const terminationDelay = 2 * time.Second

// startEnv starts a lab, and makes its endpoints those of this process.
func startEnv(t *testing.T, machines bool) *env.Env {
	t.Helper()
	root, err := env.Root()
	require.NoError(t, err)
	on, err := env.Start(t.Context(), env.Options{Root: root, Machines: machines})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, on.Stop()) })
	on.AWS.SetTerminationDelay(terminationDelay)
	for _, setting := range append(on.AWS.Environment(on.AWS.Session("smoke")), "AWS_ENDPOINT_URL_STS="+on.AWS.URL()) {
		name, value, _ := strings.Cut(setting, "=")
		t.Setenv(name, value)
	}
	t.Setenv("KUBECONFIG", on.Lab.Kubeconfig())
	return on
}

func newAccount(t *testing.T, on *env.Env, group string) *account {
	a := &account{T: t, Env: on, group: group, stop: func() {}, change: func(text string) string { return text }}
	instances, err := on.GroupWithoutHook(t.Context(), group, 2)
	require.NoError(t, err)
	on.AWS.TagGroup(group, map[string]string{smokeTag: "true"})
	ctx, cancel := context.WithCancel(context.Background())
	var ec2 sync.WaitGroup
	ec2.Go(func() { a.replaceTerminated(ctx, instances) })
	t.Cleanup(func() {
		cancel()
		ec2.Wait()
		a.stop()
		nodes, err := on.Lab.Client().CoreV1().Nodes().List(context.Background(), metav1.ListOptions{LabelSelector: "group=" + group})
		if err == nil {
			for _, n := range nodes.Items { // so that the next run's pods do not go there
				_ = on.Lab.RemoveNode(context.Background(), n.Name)
			}
		}
	})
	return a
}

// replaceTerminated does what AWS does after an instance is gone: its node is deleted with its pods, and the group launches another
// instance.
func (a *account) replaceTerminated(ctx context.Context, instances []env.Instance) {
	tick := time.NewTicker(labPoll)
	defer tick.Stop()
	for ctx.Err() == nil {
		for n, i := range instances {
			if a.AWS.State(i.ID) != "" {
				continue
			}
			if err := a.replace(ctx, i); err != nil && ctx.Err() == nil {
				a.Errorf("replace %s: %v", i.ID, err)
			}
			instances = append(instances[:n:n], instances[n+1:]...)
			break
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (a *account) replace(ctx context.Context, i env.Instance) error {
	_ = a.Lab.Kill(ctx, i.Node)                           // fails for simulated nodes
	if err := a.Lab.RemoveNode(ctx, i.Node); err != nil { // first, so that no new pod goes there
		return err
	}
	now := int64(0)
	pods := a.Lab.Client().CoreV1().Pods(namespace)
	remaining, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + i.Node})
	if err != nil {
		return err
	}
	for _, p := range remaining.Items {
		if failed := pods.Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); !apierrors.IsNotFound(failed) {
			err = errors.Join(err, failed)
		}
	}
	_, launched := a.Launch(ctx, a.group, 1)
	return errors.Join(err, launched)
}

// deploy stands for CloudFormation: a function with its log group, a queue with its mapping and its rule, and a hook.
func (a *account) deploy(ctx context.Context, path string) error {
	a.deployed++
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	queue := a.Queue(a.group)
	a.Logs = a.AWS.LogGroup("/aws/lambda/quiesce-" + env.Cluster)
	function, err := a.Function(context.WithoutCancel(ctx), a.change(string(text)), queue.Environment()...)
	if err != nil {
		return err
	}
	a.AWS.AddFunction("quiesce-"+env.Cluster, func(ctx context.Context, payload []byte) ([]byte, string, error) {
		result, err := function.Invoke(ctx, payload)
		if result.ErrorType != "" {
			return result.Payload, "Unhandled", err
		}
		return result.Payload, "", err
	})
	unmap := a.Map(queue, 1, function)
	a.AWS.SendEventsTo(queue.URL)
	a.AWS.AddGroup(a.group, awstest.Hook{Name: env.Hook, HeartbeatTimeout: time.Minute})
	a.stop = sync.OnceFunc(func() {
		a.AWS.SendEventsTo("")
		unmap()
		require.NoError(a, function.Close())
	})
	return nil
}

// destroy deletes what deploy made. Auto Scaling goes on with instances that waited on the hook.
func (a *account) destroy(context.Context, string, bool) error {
	a.deleted++
	a.stop()
	a.AWS.AddGroup(a.group)
	if id := a.target(); a.AWS.State(id) == "Terminating:Wait" {
		a.AWS.SetState(id, "")
	}
	a.AWS.AddFunction("quiesce-"+env.Cluster, nil)
	return nil
}

// run runs the smoke test with these settings, and returns what it printed.
func (a *account) run(ctx context.Context, change ...func(*settings)) (*smoke, string, error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	var out bytes.Buffer
	set := settings{
		Group: a.group, Cluster: env.Cluster, MaxInstances: defaultMaxInstances, Image: shellImage, Stack: defaultStack,
		Folder: a.TempDir(), Version: "v0", Deploy: a.deploy, Destroy: a.destroy, Poll: labPoll, Out: &out,
		Annotations: map[string]string{lab.TerminationMessage: signaled + " 08:15:30", lab.StopAfter: "200ms"},
	}
	for _, c := range change {
		c(&set)
	}
	s, err := newSmoke(ctx, set)
	require.NoError(a, err)
	a.target = func() string { return s.target.instance }
	err = s.run(ctx)
	a.Log(out.String())
	return s, out.String(), err
}

// requireClean requires that nothing is left of the run.
func (a *account) requireClean() {
	a.Helper()
	require.Equal(a, a.deployed, a.deleted)
	_, err := a.Lab.Client().CoreV1().Namespaces().Get(a.Context(), namespace, metav1.GetOptions{})
	require.True(a, apierrors.IsNotFound(err), "%v", err)
	nodes, err := a.Lab.Client().CoreV1().Nodes().List(a.Context(), metav1.ListOptions{LabelSelector: placeLabel})
	require.NoError(a, err)
	require.Empty(a, nodes.Items)
}

func testPasses(a *account) {
	s, out, err := a.run(a.Context())
	require.NoError(a, err)
	a.requireClean()
	summary := s.summary()
	require.Contains(a, summary, "## quiesce smoke test: passed")
	require.Contains(a, summary, "********3333")
	require.NotContains(a, summary, awstest.Account)
	for _, step := range []string{"preflight", "deploy", "plan", "terminate one instance", "compare", "delete the stack"} {
		require.Regexp(a, `smoke: `+step+`: ok after [0-9.]+m?s`, out)
	}
	require.Len(a, s.seen.pods, 3)
	require.Len(a, a.AWS.Completions(s.target.instance), 1)
}

func testShadowFails(a *account) {
	a.change = func(text string) string { return strings.Replace(text, "mode: drain", "mode: shadow", 1) }
	s, _, err := a.run(a.Context())
	require.ErrorContains(a, err, "the status is drained")
	require.NotContains(a, err.Error(), "delete the", "cleaning up succeeds")
	require.Contains(a, s.checks, check{"the status is drained", `it is "planned"`})
	var failed []string
	for _, c := range s.checks {
		if c.problem != "" {
			failed = append(failed, c.name)
		}
	}
	require.Contains(a, failed, "every test pod was evicted")
	require.Contains(a, failed, "every test pod got SIGTERM and ended by itself")
	require.Contains(a, failed, "the hook held the instance until its pods were gone")
	a.requireClean()
	require.Contains(a, s.summary(), "## quiesce smoke test: FAILED")
}

// testInterrupted interrupts the run while it waits for the instance.
func testInterrupted(a *account) {
	ctx, interrupt := context.WithCancelCause(a.Context())
	defer interrupt(nil)
	interrupted := errors.New("interrupted")
	_, _, err := a.run(ctx, func(set *settings) {
		set.Out = io.MultiWriter(set.Out, when("smoke: wait until it is gone ...", func() { interrupt(interrupted) }))
	})
	require.ErrorIs(a, err, interrupted)
	a.requireClean()
	require.Equal(a, 1, a.deleted)
}

// when returns a writer that calls do when a text is written.
func when(text string, do func()) io.Writer { return &watcher{text, do} }

type watcher struct {
	text string
	do   func()
}

// Write implements io.Writer.
func (w *watcher) Write(b []byte) (int, error) {
	if strings.Contains(string(b), w.text) {
		w.do()
	}
	return len(b), nil
}

func testDeployFails(a *account) {
	_, out, err := a.run(a.Context(), func(set *settings) {
		set.Deploy = func(context.Context, string) error { a.deployed++; return errors.New("no such bucket") }
	})
	require.ErrorContains(a, err, "deploy: no such bucket")
	require.NotContains(a, out, "terminate")
	a.requireClean()
}
