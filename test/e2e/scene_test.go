package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
	"quiesce/test/parts/runtimeapi"
)

// patience bounds every wait of these tests: far beyond what any needs on a slow machine, so that only a real hang meets it.
const patience = 2 * time.Minute

const (
	// sceneTime bounds a test, so that one that hangs is told by its name.
	sceneTime = 5 * time.Minute
	// longSceneTime bounds one in its long form.
	longSceneTime = 40 * time.Minute
)

// scene is one test's part of the stage: a group with its nodes, a namespace whose pods run on them, and a function.
type scene struct {
	*testing.T
	*env.Env
	ctx       context.Context
	group     string // and namespace
	instances []env.Instance
	function  *env.Function
}

// setScene makes a scene with n nodes. more is appended to the function's configuration.
func setScene(t *testing.T, n int, more ...string) *scene {
	return setSceneOn(t, play(t), n, more...)
}

func setSceneOn(t *testing.T, on *env.Env, n int, more ...string) *scene {
	s := &scene{T: t, Env: on, group: nameOf(t)}
	limit := sceneTime
	if long() {
		limit = longSceneTime
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	s.ctx = ctx
	var err error
	s.instances, err = s.Group(ctx, s.group, n)
	require.NoError(t, err)
	_, err = s.Lab.Client().CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.group}}, metav1.CreateOptions{})
	require.NoError(t, err)
	s.function = s.newFunction(more...)
	return s
}

// scenes counts them: a test that runs twice has two.
var scenes atomic.Int32

func nameOf(t *testing.T) string {
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(t.Name(), "Test")))
	return fmt.Sprintf("%s-%d", name[:min(len(name), 50)], scenes.Add(1)) // 63 characters are allowed
}

func (s *scene) newFunction(more ...string) *env.Function {
	s.Helper()
	return s.newFunctionFor(s.group, more...)
}

// newFunctionFor is a function that another group than the scene's is configured for.
func (s *scene) newFunctionFor(group string, more ...string) *env.Function {
	s.Helper()
	settings := strings.Join(more, "\n")
	if !strings.Contains(settings, "mode: ") {
		settings = "mode: drain\n" + settings
	}
	return s.start("autoScalingGroups: [\"" + group + "\"]\n" + settings)
}

func (s *scene) start(configuration string, environment ...string) *env.Function {
	s.Helper()
	function, err := s.Function(context.Background(), configuration, environment...)
	require.NoError(s, err)
	s.Cleanup(func() {
		require.NoError(s, function.Close())
		if s.Failed() {
			s.Logf("the function's log:\n%s", function.Output())
		}
	})
	return function
}

// deploy runs pods of an app on the scene's nodes, all ready on return. change may alter the Deployment.
func (s *scene) deploy(app string, replicas int32, change ...func(*appsv1.Deployment)) {
	s.Helper()
	s.create(app, replicas, change...)
	s.until("deployment "+app+" is ready", func() (bool, error) { return s.isReady(app, replicas) })
}

func (s *scene) create(app string, replicas int32, change ...func(*appsv1.Deployment)) {
	s.Helper()
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: app, Namespace: s.group},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
			Template: s.template(app),
		},
	}
	for _, c := range change {
		c(deployment)
	}
	_, err := s.Lab.Client().AppsV1().Deployments(s.group).Create(s.ctx, deployment, metav1.CreateOptions{})
	require.NoError(s, err)
}

// isReady tells whether all pods of an app are.
func (s *scene) isReady(app string, replicas int32) (bool, error) {
	d, err := s.Lab.Client().AppsV1().Deployments(s.group).Get(s.ctx, app, metav1.GetOptions{})
	return err == nil && d.Status.ReadyReplicas == replicas, err
}

func (s *scene) template(app string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{"group": s.group},
			Containers:   []corev1.Container{{Name: "main", Image: "none"}},
		},
	}
}

// onNode pins pods to one of the scene's nodes.
func onNode(i env.Instance) func(*corev1.PodSpec) {
	return func(p *corev1.PodSpec) { p.NodeName = i.Node }
}

// pod creates a bare pod, ready on return.
func (s *scene) pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	s.Helper()
	created := s.bare(name, change...)
	s.until("pod "+name+" runs", func() (bool, error) {
		p, err := s.Lab.Client().CoreV1().Pods(s.group).Get(s.ctx, name, metav1.GetOptions{})
		return err == nil && p.Status.Phase != corev1.PodPending, err
	})
	return created
}

// bare creates a bare pod.
func (s *scene) bare(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	s.Helper()
	template := s.template(name)
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Name, pod.Namespace = name, s.group
	for _, c := range change {
		c(pod)
	}
	created, err := s.Lab.Client().CoreV1().Pods(s.group).Create(s.ctx, pod, metav1.CreateOptions{})
	require.NoError(s, err)
	return created
}

// budget protects an app's pods.
func (s *scene) budget(name, app string, maxUnavailable int) {
	s.Helper()
	limit := intstr.FromInt(maxUnavailable)
	_, err := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).Create(s.ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.group},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: &limit, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
		},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	s.until("budget "+name+" is counted", func() (bool, error) {
		b, err := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).Get(s.ctx, name, metav1.GetOptions{})
		return err == nil && b.Status.ObservedGeneration == b.Generation && b.Status.ExpectedPods > 0, err
	})
}

// terminate has Auto Scaling terminate the instance and returns our hook's event.
func (s *scene) terminate(i env.Instance) awstest.Event {
	s.Helper()
	for _, event := range s.AWS.Terminate(i.ID) {
		if event.Hook == env.Hook {
			return event
		}
	}
	require.Fail(s, "no event for our hook")
	return awstest.Event{}
}

// report is what the function answers with.
type report struct {
	termination.Report
	ErrorType, ErrorMessage string
}

func (s *scene) invoke(payload any) report { return s.invokeOn(s.function, payload) }

func (s *scene) invokeOn(f *env.Function, payload any) report {
	s.Helper()
	return s.beginOn(f, payload)()
}

// beginOn invokes in the background. The returned function waits for the answer.
func (s *scene) beginOn(f *env.Function, payload any) (end func() report) {
	s.Helper()
	body, isBytes := payload.([]byte)
	if !isBytes {
		var err error
		body, err = json.Marshal(payload)
		require.NoError(s, err)
	}
	var result runtimeapi.Result
	var err error
	done := make(chan struct{})
	go func() { defer close(done); result, err = f.Invoke(s.ctx, body) }()
	return func() report {
		s.Helper()
		<-done
		require.NoError(s, err)
		answer := report{ErrorType: result.ErrorType, ErrorMessage: result.ErrorMessage}
		if result.ErrorType == "" {
			require.NoError(s, json.Unmarshal(result.Payload, &answer.Report), "%s", result.Payload)
		}
		return answer
	}
}

// begin terminates the instance and has the function begin to drain it.
func (s *scene) begin(i env.Instance) (end func() report) {
	s.Helper()
	return s.beginOn(s.function, s.terminate(i).Body)
}

// drain terminates the instance and has the function drain it.
func (s *scene) drain(i env.Instance) report {
	s.Helper()
	return s.invoke(s.terminate(i).Body)
}

// until waits for a condition.
func (s *scene) until(what string, holds func() (bool, error)) {
	s.Helper()
	s.within(patience, what, holds)
}

// within waits for a condition that may take that long.
func (s *scene) within(limit time.Duration, what string, holds func() (bool, error)) {
	s.Helper()
	deadline := time.Now().Add(limit)
	var last error
	for {
		ok, err := holds()
		if ok {
			return
		}
		last = err
		if time.Now().After(deadline) {
			require.Failf(s, "never", "%s (%v)", what, last)
		}
		select {
		case <-s.ctx.Done():
			require.Failf(s, "cut short", "%s (%v)", what, last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// requests are those that a function made of Kubernetes, in order.
func (s *scene) requests(f *env.Function) []lab.Request {
	s.Helper()
	all, err := s.Lab.Audit().By(f.User)
	require.NoError(s, err)
	return all
}

// writes are the requests that may have changed something.
func writes(all []lab.Request) (changed []string) {
	for _, r := range all {
		if r.Verb != "get" && r.Verb != "list" && r.Verb != "watch" {
			changed = append(changed, fmt.Sprintf("%s %s/%s %s", r.Verb, r.Resource, r.Subresource, r.Name))
		}
	}
	return changed
}

// podsOn are the pods of the scene on a node.
func (s *scene) podsOn(i env.Instance) []corev1.Pod {
	s.Helper()
	list, err := s.Lab.Client().CoreV1().Pods(s.group).List(s.ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + i.Node})
	require.NoError(s, err)
	return list.Items
}

// hostOf is the instance that most of an app's pods are on.
func (s *scene) hostOf(app string) env.Instance {
	s.Helper()
	host, most := env.Instance{}, 0
	for _, i := range s.instances {
		here := 0
		for _, p := range s.podsOn(i) {
			if p.Labels["app"] == app {
				here++
			}
		}
		if here > most {
			host, most = i, here
		}
	}
	require.NotZero(s, most, "no pod of %s", app)
	return host
}

// evictions are the evictions that the scene's function asked for, in order: of the pod of this name, or empty, of any.
func (s *scene) evictions(pod string) (asked []lab.Request) {
	s.Helper()
	for _, r := range s.requests(s.function) {
		if r.Subresource == "eviction" && (pod == "" || r.Name == pod) {
			asked = append(asked, r)
		}
	}
	return asked
}

// answered are the requests that were answered with this status.
func answered(all []lab.Request, code int) (found []lab.Request) {
	for _, r := range all {
		if r.Code == code {
			found = append(found, r)
		}
	}
	return found
}

// logs waits until the scene's function has logged all of these texts.
func (s *scene) logs(texts ...string) {
	s.Helper()
	s.until("the log says "+strings.Join(texts, " and "), func() (bool, error) {
		output := s.function.Output()
		for _, text := range texts {
			if !strings.Contains(output, text) {
				return false, nil
			}
		}
		return true, nil
	})
}

// of is the line of a pod in the report.
func (r report) of(t require.TestingT, pod string) drain.PodReport {
	for _, p := range r.Pods {
		if p.Name == pod {
			return p
		}
	}
	require.Failf(t, "not in the report", "%s in %+v", pod, r.Pods)
	return drain.PodReport{}
}
