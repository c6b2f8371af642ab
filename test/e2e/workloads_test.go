package e2e

import (
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"quiesce/internal/drain"
	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

// pinned binds a pod to a node of the fixture, without the scheduler.
func pinned(i env.Instance) func(*corev1.Pod) {
	return func(p *corev1.Pod) { onNode(i)(&p.Spec) }
}

func annotated(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { metav1.SetMetaDataAnnotation(&p.ObjectMeta, key, value) }
}

func labeled(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { metav1.SetMetaDataLabel(&p.ObjectMeta, key, value) }
}

// awaitGone waits until no pod has the name.
func (s *fixture) awaitGone(pod string) {
	s.Helper()
	s.until("pod "+pod+" is gone", func() (bool, error) {
		_, err := s.Lab.Client().CoreV1().Pods(s.group).Get(s.ctx, pod, metav1.GetOptions{})
		return apierrors.IsNotFound(err), err
	})
}

// awaitSuccessor waits until another pod has the pod's name and runs.
func (s *fixture) awaitSuccessor(pod corev1.Pod) (reborn *corev1.Pod) {
	s.Helper()
	s.until("pod "+pod.Name+" is reborn", func() (_ bool, err error) {
		reborn, err = s.Lab.Client().CoreV1().Pods(s.group).Get(s.ctx, pod.Name, metav1.GetOptions{})
		return err == nil && reborn.UID != pod.UID && reborn.Status.Phase == corev1.PodRunning, err
	})
	return reborn
}

// appOf returns the app of the pod in a line of the report.
func (s *fixture) appOf(line drain.PodReport) string {
	s.Helper()
	for _, i := range s.instances {
		for _, p := range s.podsOn(i) {
			if string(p.UID) == line.UID {
				return p.Labels["app"]
			}
		}
	}
	return line.Name
}

// daemonSet runs a DaemonSet's pod on each of the fixture's nodes.
func (s *fixture) daemonSet(app string) {
	s.Helper()
	daemons := s.Lab.Client().AppsV1().DaemonSets(s.group)
	_, err := daemons.Create(s.ctx, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, Template: s.template(app),
		},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	s.until("daemon "+app+" runs everywhere", func() (bool, error) {
		d, err := daemons.Get(s.ctx, app, metav1.GetOptions{})
		return err == nil && int(d.Status.NumberReady) == len(s.instances), err
	})
}

// finishedJob runs a Job until it succeeds. Its pod stays.
func (s *fixture) finishedJob(app string) {
	s.Helper()
	template := s.template(app)
	template.Spec.RestartPolicy = corev1.RestartPolicyNever
	jobs := s.Lab.Client().BatchV1().Jobs(s.group)
	_, err := jobs.Create(s.ctx, &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: app}, Spec: batchv1.JobSpec{Template: template},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	s.until("job "+app+" has succeeded", func() (bool, error) {
		j, err := jobs.Get(s.ctx, app, metav1.GetOptions{})
		return err == nil && j.Status.Succeeded == 1, err
	})
}

// statefulSet runs a StatefulSet with one replica.
func (s *fixture) statefulSet(app string) {
	s.Helper()
	sets := s.Lab.Client().AppsV1().StatefulSets(s.group)
	_, err := sets.Create(s.ctx, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: appsv1.StatefulSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, Template: s.template(app),
		},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	s.until("set "+app+" is ready", func() (bool, error) {
		set, err := sets.Get(s.ctx, app, metav1.GetOptions{})
		return err == nil && set.Status.ReadyReplicas == 1, err
	})
}

func (s *fixture) removeFinalizers(pod string) {
	_, err := s.Lab.Client().CoreV1().Pods(s.group).Patch(s.ctx, pod, types.MergePatchType,
		[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	require.NoError(s, err)
}

// deploy runs pods of an app on the fixture's nodes and waits until all are ready. change may alter the Deployment.
func (s *fixture) deploy(app string, replicas int32, change ...func(*appsv1.Deployment)) {
	s.Helper()
	s.create(app, replicas, change...)
	s.until("deployment "+app+" is ready", func() (bool, error) { return s.isReady(app, replicas) })
}

func (s *fixture) create(app string, replicas int32, change ...func(*appsv1.Deployment)) {
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

// isReady reports whether all pods of an app are ready.
func (s *fixture) isReady(app string, replicas int32) (bool, error) {
	d, err := s.Lab.Client().AppsV1().Deployments(s.group).Get(s.ctx, app, metav1.GetOptions{})
	return err == nil && d.Status.ReadyReplicas == replicas, err
}

func (s *fixture) template(app string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{"group": s.group},
			Containers:   []corev1.Container{{Name: "main", Image: "none"}},
		},
	}
}

// onNode pins pods to a node of the fixture.
func onNode(i env.Instance) func(*corev1.PodSpec) {
	return func(p *corev1.PodSpec) { p.NodeName = i.Node }
}

// runPod creates a bare pod and waits until it runs.
func (s *fixture) runPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	s.Helper()
	created := s.createPod(name, change...)
	s.until("pod "+name+" runs", func() (bool, error) {
		p, err := s.Lab.Client().CoreV1().Pods(s.group).Get(s.ctx, name, metav1.GetOptions{})
		return err == nil && p.Status.Phase != corev1.PodPending, err
	})
	return created
}

// createPod creates a bare pod.
func (s *fixture) createPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
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

// pdb creates a PodDisruptionBudget for an app's pods.
func (s *fixture) pdb(name, app string, maxUnavailable int) {
	s.Helper()
	limit := intstr.FromInt(maxUnavailable)
	_, err := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).Create(s.ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.group},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: &limit, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
		},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	s.until("PDB "+name+" is counted", func() (bool, error) {
		b, err := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).Get(s.ctx, name, metav1.GetOptions{})
		return err == nil && b.Status.ObservedGeneration == b.Generation && b.Status.ExpectedPods > 0, err
	})
}

// podsOn returns the fixture's pods on a node.
func (s *fixture) podsOn(i env.Instance) []corev1.Pod {
	s.Helper()
	list, err := s.Lab.Client().CoreV1().Pods(s.group).List(s.ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + i.Node})
	require.NoError(s, err)
	return list.Items
}

// hostOf returns the instance that has most of an app's pods.
func (s *fixture) hostOf(app string) env.Instance {
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

// runPodOn creates a pod on an instance's node and waits until it runs.
func (s *fixture) runPodOn(i env.Instance, name string, change ...func(*corev1.Pod)) *corev1.Pod {
	s.Helper()
	return s.runPod(name, append(change, pinned(i))...)
}

func stopsAfter(d string) func(*corev1.Pod) { return annotated(lab.StopAfter, d) }

// untilDeleted makes a pod stop only when forceDelete removes it. No time would be right on every machine.
func untilDeleted(p *corev1.Pod) {
	stopsAfter("600s")(p)
	p.Spec.TerminationGracePeriodSeconds = new(int64(600))
}

// forceDelete removes a pod at once.
func (s *fixture) forceDelete(pod string) {
	s.Helper()
	require.NoError(s, s.Lab.Client().CoreV1().Pods(s.group).Delete(s.ctx, pod, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
}
