package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"quiesce/internal/termination"
	"quiesce/test/awstest"
	"quiesce/test/lab"
	"quiesce/test/stage"
)

// patience bounds every wait of these tests: far beyond what any needs on a slow machine, so that only a real hang meets it.
const patience = 2 * time.Minute

// scene is one test's part of the stage: a group with its nodes, a namespace whose pods run on them, and a function.
type scene struct {
	*testing.T
	*stage.Stage
	ctx       context.Context
	group     string // and namespace
	instances []stage.Instance
	function  *stage.Function
}

// setScene makes a scene with n nodes. more is appended to the function's configuration.
func setScene(t *testing.T, n int, more ...string) *scene {
	s := &scene{T: t, Stage: play(t), group: nameOf(t)}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
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

func nameOf(t *testing.T) string {
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(t.Name(), "Test")))
	return name[:min(len(name), 60)]
}

func (s *scene) newFunction(more ...string) *stage.Function {
	s.Helper()
	configuration := "autoScalingGroups: [\"" + s.group + "\"]\n" + strings.Join(more, "\n")
	function, err := s.Function(context.Background(), configuration)
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
	s.until("deployment "+app+" is ready", func() (bool, error) {
		d, err := s.Lab.Client().AppsV1().Deployments(s.group).Get(s.ctx, app, metav1.GetOptions{})
		return err == nil && d.Status.ReadyReplicas == replicas, err
	})
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
func onNode(i stage.Instance) func(*corev1.PodSpec) {
	return func(p *corev1.PodSpec) { p.NodeName = i.Node }
}

// pod creates a bare pod, ready on return.
func (s *scene) pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	s.Helper()
	template := s.template(name)
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Name, pod.Namespace = name, s.group
	for _, c := range change {
		c(pod)
	}
	created, err := s.Lab.Client().CoreV1().Pods(s.group).Create(s.ctx, pod, metav1.CreateOptions{})
	require.NoError(s, err)
	s.until("pod "+name+" runs", func() (bool, error) {
		p, err := s.Lab.Client().CoreV1().Pods(s.group).Get(s.ctx, name, metav1.GetOptions{})
		return err == nil && p.Status.Phase != corev1.PodPending, err
	})
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
func (s *scene) terminate(i stage.Instance) awstest.Event {
	s.Helper()
	for _, event := range s.AWS.Terminate(i.ID) {
		if event.Hook == stage.Hook {
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

func (s *scene) invokeOn(f *stage.Function, payload any) report {
	s.Helper()
	body, isBytes := payload.([]byte)
	if !isBytes {
		var err error
		body, err = json.Marshal(payload)
		require.NoError(s, err)
	}
	result, err := f.Invoke(s.ctx, body)
	require.NoError(s, err)
	answer := report{ErrorType: result.ErrorType, ErrorMessage: result.ErrorMessage}
	if result.ErrorType == "" {
		require.NoError(s, json.Unmarshal(result.Payload, &answer.Report), "%s", result.Payload)
	}
	return answer
}

// drain terminates the instance and has the function drain it.
func (s *scene) drain(i stage.Instance) report {
	s.Helper()
	return s.invoke(s.terminate(i).Body)
}

// until waits for a condition.
func (s *scene) until(what string, holds func() (bool, error)) {
	s.Helper()
	deadline := time.Now().Add(patience)
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
func (s *scene) requests(f *stage.Function) []lab.Request {
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
func (s *scene) podsOn(i stage.Instance) []corev1.Pod {
	s.Helper()
	list, err := s.Lab.Client().CoreV1().Pods(s.group).List(s.ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + i.Node})
	require.NoError(s, err)
	return list.Items
}
