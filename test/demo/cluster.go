package main

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"quiesce/test/env"
)

// apps run in the demo's cluster. The last one has a PDB that allows one disruption at a time.
var apps = []struct {
	name     string
	replicas int32
	withPDB  bool
}{
	{"web", 12, false},
	{"worker", 9, false},
	{"checkout", 6, true},
}

// readyPoll is the time between checks of the Deployments, which take a second or two.
const readyPoll = 50 * time.Millisecond

// createCluster makes the group, its nodes (n new ones, and those of more) and the apps.
func createCluster(ctx context.Context, s *env.Env, n int, more ...env.Instance) ([]env.Instance, error) {
	instances, err := s.Group(ctx, group, n)
	if err != nil {
		return nil, err
	}
	if err := s.Join(ctx, group, more...); err != nil {
		return nil, err
	}
	client := s.Lab.Client()
	for _, app := range apps {
		if err := deploy(ctx, client, app.name, app.replicas); err != nil {
			return nil, fmt.Errorf("deploy %s: %w", app.name, err)
		}
		if app.withPDB {
			if err := addPDB(ctx, client, app.name); err != nil {
				return nil, fmt.Errorf("create the PodDisruptionBudget of %s: %w", app.name, err)
			}
		}
	}
	logf("%d nodes in two zones run %d Deployments; checkout has a PodDisruptionBudget of one pod at a time", nodes, len(apps))
	return instances, ready(ctx, client)
}

func deploy(ctx context.Context, client kubernetes.Interface, app string, replicas int32) error {
	labels := map[string]string{"app": app}
	_, err := client.AppsV1().Deployments(metav1.NamespaceDefault).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: app, Image: app}}},
			},
		},
	}, metav1.CreateOptions{})
	return err
}

func addPDB(ctx context.Context, client kubernetes.Interface, app string) error {
	one := intstr.FromInt32(1)
	_, err := client.PolicyV1().PodDisruptionBudgets(metav1.NamespaceDefault).Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
		},
	}, metav1.CreateOptions{})
	return err
}

// ready waits until all pods are Ready and all PDBs allow a disruption.
func ready(ctx context.Context, client kubernetes.Interface) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		if ok, err := isReady(ctx, client); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the Deployments: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func isReady(ctx context.Context, client kubernetes.Interface) (bool, error) {
	deployments, err := client.AppsV1().Deployments(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	for _, d := range deployments.Items {
		if d.Status.ReadyReplicas != *d.Spec.Replicas {
			return false, nil
		}
	}
	pdbs, err := client.PolicyV1().PodDisruptionBudgets(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	for _, b := range pdbs.Items {
		if b.Status.DisruptionsAllowed == 0 {
			return false, nil
		}
	}
	return true, nil
}
