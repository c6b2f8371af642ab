package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
)

const (
	// stopping is how long each pod takes to stop.
	stopping = "2s"
	// fixtureTimeout bounds the preparation and the drain of one fixture.
	fixtureTimeout = 5 * time.Minute
)

// drainer drains a node full of pods and returns the time it took.
type drainer struct {
	name  string
	drain func(*fixture) time.Duration
}

var drainers = []drainer{
	{"ideal", (*fixture).ideal},
	{"quiesce", (*fixture).quiesce},
	{"kubectl", (*fixture).kubectl},
}

func BenchmarkDrainOf30Pods(b *testing.B)  { compareDrains(b, 30) }
func BenchmarkDrainOf134Pods(b *testing.B) { compareDrains(b, 134) }
func BenchmarkDrainOf500Pods(b *testing.B) { compareDrains(b, 500) }

// compareDrains lets the drainers drain nodes of n pods in turn. It reports the medians and their ratios to the ideal client's.
func compareDrains(b *testing.B, n int32) {
	lab.Require(b)
	s := start(b)
	took := map[string][]time.Duration{}
	requests := 0
	var users felt
	round := 0
	for b.Loop() {
		round++
		for _, c := range drainers {
			a := newFixture(b, s, fmt.Sprintf("%s-%d-%d", c.name, n, round), n)
			replaced := a.watchReplacements(int(n), fields.OneTermEqualSelector("spec.nodeName", a.refuge.Node))
			took[c.name] = append(took[c.name], c.drain(a))
			requests = max(requests, len(a.last.requests))
			users.add(a, replaced())
			a.clear()
		}
	}
	ideal := median(took["ideal"])
	for _, c := range drainers {
		b.ReportMetric(median(took[c.name]).Seconds(), c.name+"-s")
	}
	b.ReportMetric(median(took["quiesce"]).Seconds()/ideal.Seconds(), "quiesce/ideal")
	b.ReportMetric(median(took["kubectl"]).Seconds()/ideal.Seconds(), "kubectl/ideal")
	b.ReportMetric(float64(requests), "requests")
	users.report(b)
	b.ReportMetric(0, "ns/op") // the sum over three drainers means nothing
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func start(b *testing.B) *env.Env {
	b.Helper()
	root, err := env.Root()
	require.NoError(b, err)
	s, err := env.Start(b.Context(), env.Options{Root: root})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, s.Stop()) })
	return s
}

// fixture is one node full of pods, and a node to which they can move.
type fixture struct {
	*testing.B
	*env.Env
	ctx    context.Context
	name   string // of the group and of the namespace
	target env.Instance
	refuge env.Instance // to which the pods can move
	last   cost         // of the function's drain

	stopping      string // how long each pod takes to stop; empty: 2 s
	configuration string // of the function; empty: for the group, to drain
}

// cost is what one invocation took.
type cost struct {
	began    time.Time
	took     time.Duration
	cpu      time.Duration  // of the function
	requests []lab.Request  // to the API server
	calls    []awstest.Call // of AWS, except those by which the cluster authenticates the function
	answer   []byte
}

// newFixture makes a fixture with n pods.
func newFixture(b *testing.B, s *env.Env, name string, n int32) *fixture {
	a := newEmptyFixture(b, s, name)
	a.fillTarget(n)
	return a
}

func newEmptyFixture(b *testing.B, s *env.Env, name string) *fixture {
	ctx, cancel := context.WithTimeout(b.Context(), fixtureTimeout)
	b.Cleanup(cancel)
	a := &fixture{B: b, Env: s, ctx: ctx, name: name}
	instances, err := s.Group(ctx, name, 2)
	require.NoError(b, err)
	a.target, a.refuge = instances[0], instances[1]
	return a
}

// fillTarget runs n pods on the target node.
func (a *fixture) fillTarget(n int32) {
	a.setUnschedulable(a.refuge, true)
	a.fill(n)
	a.setUnschedulable(a.refuge, false)
}

// setUnschedulable cordons or uncordons a node.
func (a *fixture) setUnschedulable(node env.Instance, closed bool) {
	patch := fmt.Sprintf(`{"spec":{"unschedulable":%v}}`, closed)
	_, err := a.Lab.Client().CoreV1().Nodes().Patch(a.ctx, node.Node, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	require.NoError(a, err)
}

func (a *fixture) createNamespace() {
	_, err := a.Lab.Client().CoreV1().Namespaces().Create(a.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: a.name}}, metav1.CreateOptions{})
	require.NoError(a, err)
}

// fill runs n pods, all on the target node.
func (a *fixture) fill(n int32) {
	a.createNamespace()
	labels := map[string]string{"app": "web"}
	deployments := a.Lab.Client().AppsV1().Deployments(a.name)
	_, err := deployments.Create(a.ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{lab.StopAfter: cmp.Or(a.stopping, stopping)}},
				Spec: corev1.PodSpec{
					NodeSelector: map[string]string{"group": a.name},
					Containers:   []corev1.Container{{Name: "main", Image: "none"}},
				},
			},
		},
	}, metav1.CreateOptions{})
	require.NoError(a, err)
	a.until(func() bool {
		d, err := deployments.Get(a.ctx, "web", metav1.GetOptions{})
		require.NoError(a, err)
		return d.Status.ReadyReplicas == n
	})
}

// clear removes the pods, so that they do not load the machine during the next measurement.
func (a *fixture) clear() {
	propagation := metav1.DeletePropagationBackground
	everything := metav1.ListOptions{}
	err := a.Lab.Client().AppsV1().Deployments(a.name).DeleteCollection(a.ctx, metav1.DeleteOptions{PropagationPolicy: &propagation}, everything)
	require.NoError(a, err)
	a.until(func() bool {
		list, err := a.Lab.Client().CoreV1().Pods(a.name).List(a.ctx, metav1.ListOptions{})
		require.NoError(a, err)
		return len(list.Items) == 0
	})
}

func (a *fixture) until(holds func() bool) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-a.ctx.Done():
			require.Fail(a, "not in time")
		}
	}
}

// quiesce returns the time from the event to the completion, by a warm function.
func (a *fixture) quiesce() time.Duration {
	function := a.warmFunction(cmp.Or(a.configuration, "autoScalingGroups: ["+a.name+"]\nmode: drain\n"))
	defer function.Close()
	a.last = a.drainBy(function)
	return a.last.took
}

// warmFunction starts a function and lets it connect to AWS and Kubernetes.
func (a *fixture) warmFunction(configuration string) *env.Function {
	function, err := a.Function(a.ctx, configuration)
	require.NoError(a, err)
	plan, err := json.Marshal(termination.Request{Action: termination.ActionPlan, InstanceID: a.target.ID})
	require.NoError(a, err)
	_, err = function.Invoke(a.ctx, plan)
	require.NoError(a, err)
	return function
}

// drainBy terminates the target and lets the function drain it.
func (a *fixture) drainBy(function *env.Function) cost {
	return a.costOf(function, func() []byte { return a.AWS.Terminate(a.target.ID)[0].Body })
}

// costOf invokes the function.
func (a *fixture) costOf(function *env.Function, payload func() []byte) cost {
	before, err := a.Lab.Audit().By(function.User)
	require.NoError(a, err)
	calls := a.AWS.CallsOf(function.Session)
	cpu := function.CPU()
	began := time.Now()
	result, err := function.Invoke(a.ctx, payload())
	took := time.Since(began)
	cpu = function.CPU() - cpu
	require.NoError(a, err)
	require.Empty(a, result.ErrorType, result.ErrorMessage)
	after, err := a.Lab.Audit().By(function.User)
	require.NoError(a, err)
	more := slices.DeleteFunc(a.AWS.CallsOf(function.Session)[len(calls):], func(c awstest.Call) bool { return c.Service == "sts" })
	return cost{began, took, cpu, after[len(before):], more, result.Payload}
}

func (a *fixture) kubectl() time.Duration {
	began := time.Now()
	output, err := a.Lab.Kubectl(a.ctx, "drain", a.target.Node, "--ignore-daemonsets", "--delete-emptydir-data")
	require.NoError(a, err, output)
	return time.Since(began)
}
