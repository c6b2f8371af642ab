package main

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	// namespace is that of the test pods.
	namespace = "quiesce-smoke"
	// webApp is the Deployment that has a PDB, which allows one disruption. An evicted pod must be ready elsewhere before the next one goes.
	webApp, webReplicas = "web", 2
	// plainApp is a Deployment without a PDB.
	plainApp, plainReplicas = "plain", 1

	// placeLabel is on the nodes where test pods may run: first the instance's node only, so that they start there, and then all
	// others, so that evicted ones can go there. A preference for a node would not be sure.
	placeLabel = "quiesce/smoke"

	// signaled begins the record of a pod that got SIGTERM.
	signaled = "SIGTERM"
	// recorder is what test pods run. The termination log is the one record that outlives the pod and its node: the kubelet copies it
	// into the pod's status (https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/).
	recorder = `trap 'echo "` + signaled + ` $(date -u +%H:%M:%S)" >/dev/termination-log; exit 0' TERM; while :; do sleep 3600 & wait $!; done`
	// grace is the usual grace period. The recorder needs a moment.
	grace = 30
	// nobody is the user of the test pods.
	nobody = 65534
)

// placePods starts the test pods on the instance's node.
func (s *smoke) placePods(ctx context.Context) (string, error) {
	s.undo = append(s.undo, step{"delete the test pods", undoLimit, s.removePods})
	if err := s.label(ctx, s.target.node, "true"); err != nil {
		return "", err
	}
	if err := s.createPods(ctx); err != nil {
		return "", err
	}
	s.pods = watchPods(s.kube)
	err := s.until(ctx, "the test pods are ready and the PDB allows an eviction", func() (bool, error) { return s.ready(ctx) })
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d pods on %s", webReplicas+plainReplicas, s.target.node), s.openOthers(ctx)
}

func (s *smoke) createPods(ctx context.Context) error {
	_, err := s.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	one := intstr.FromInt32(1)
	_, err = s.kube.PolicyV1().PodDisruptionBudgets(namespace).Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: webApp},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": webApp}},
		},
	}, metav1.CreateOptions{})
	return errors.Join(err, s.createDeployment(ctx, webApp, webReplicas), s.createDeployment(ctx, plainApp, plainReplicas))
}

func (s *smoke) createDeployment(ctx context.Context, app string, replicas int32) error {
	labels := map[string]string{"app": app}
	_, err := s.kube.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: s.Annotations}, Spec: s.podSpec()},
		},
	}, metav1.CreateOptions{})
	return err
}

// podSpec fits namespaces with the Pod Security Standard "restricted".
func (s *smoke) podSpec() corev1.PodSpec {
	yes, no, user, seconds := true, false, int64(nobody), int64(grace)
	return corev1.PodSpec{
		NodeSelector:                  map[string]string{placeLabel: "true"},
		TerminationGracePeriodSeconds: &seconds,
		AutomountServiceAccountToken:  &no,
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: &yes, RunAsUser: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{{
			Name: "recorder", Image: s.Image, Command: []string{"sh", "-c", recorder},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi"),
			}},
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
		}},
	}
}

func (s *smoke) ready(ctx context.Context) (bool, error) {
	for app, replicas := range map[string]int32{webApp: webReplicas, plainApp: plainReplicas} {
		d, err := s.kube.AppsV1().Deployments(namespace).Get(ctx, app, metav1.GetOptions{})
		if err != nil || d.Status.ReadyReplicas != replicas {
			return false, err
		}
	}
	pdb, err := s.kube.PolicyV1().PodDisruptionBudgets(namespace).Get(ctx, webApp, metav1.GetOptions{})
	return err == nil && pdb.Status.DisruptionsAllowed > 0, err
}

// openOthers lets evicted pods run on the other nodes.
func (s *smoke) openOthers(ctx context.Context) error {
	nodes, err := s.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, n := range nodes.Items {
		if takesPods(n) {
			err = errors.Join(err, s.label(ctx, n.Name, "true"))
		}
	}
	return err
}

func (s *smoke) label(ctx context.Context, node, value string) error {
	return s.patchNode(ctx, node, fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, placeLabel, value))
}

func (s *smoke) patchNode(ctx context.Context, node, patch string) error {
	_, err := s.kube.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

// removePods deletes the namespace with all test pods, and the label of the nodes.
func (s *smoke) removePods(ctx context.Context) (string, error) {
	if s.pods != nil {
		defer s.pods.stop()
	}
	nodes, failed := s.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: placeLabel})
	if failed == nil {
		for _, n := range nodes.Items {
			err := s.patchNode(ctx, n.Name, fmt.Sprintf(`{"metadata":{"labels":{%q:null}}}`, placeLabel))
			if !apierrors.IsNotFound(err) { // the terminated node may go meanwhile
				failed = errors.Join(failed, err)
			}
		}
	}
	return "namespace " + namespace, errors.Join(failed, s.removeNamespace(ctx))
}

// removeNamespace deletes what is in the namespace first: Kubernetes takes long to delete a namespace with pods.
func (s *smoke) removeNamespace(ctx context.Context) error {
	if there, err := s.hasNamespace(ctx, namespace); !there || err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	err := s.kube.AppsV1().Deployments(namespace).DeleteCollection(ctx, metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{})
	err = errors.Join(err, s.until(ctx, "the test pods are gone", func() (bool, error) {
		pods, err := s.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		return err == nil && len(pods.Items) == 0, err
	}))
	err = errors.Join(err, s.kube.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}))
	return errors.Join(err, s.until(ctx, "the namespace is gone", func() (bool, error) {
		there, err := s.hasNamespace(ctx, namespace)
		return !there, err
	}))
}
