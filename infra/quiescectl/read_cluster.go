package main

import (
	"context"
	"maps"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/doctor"
	"quiesce/internal/drain"
	"quiesce/internal/kube"
	"quiesce/internal/pooler"
)

// page is how many objects one request lists. Larger pages of pods would take long to encode.
const page = 1000

// pages lists all objects, page by page.
func pages[T any](ctx context.Context, into *[]T, list func(context.Context, metav1.ListOptions) (items []T, next string, err error)) error {
	options := metav1.ListOptions{Limit: page}
	var all []T
	for {
		items, next, err := list(ctx, options)
		if err != nil {
			return err
		}
		all = append(all, items...)
		if next == "" {
			*into = all
			return nil
		}
		options.Continue = next
	}
}

// clusterParts are the parts that depend on no other. Webhooks concern no namespace alone.
func (r *reader) clusterParts() []part {
	s, core := &r.snapshot, r.client.CoreV1()
	parts := []part{
		{"nodes", func(ctx context.Context) error {
			return pages(ctx, &s.Nodes, func(ctx context.Context, o metav1.ListOptions) ([]corev1.Node, string, error) {
				l, err := core.Nodes().List(ctx, o)
				return l.Items, l.Continue, err
			})
		}},
		namespaced(r, "pods", &s.Pods, func(ctx context.Context, namespace string, o metav1.ListOptions) ([]corev1.Pod, string, error) {
			l, err := core.Pods(namespace).List(ctx, o)
			return l.Items, l.Continue, err
		}),
		namespaced(r, "poddisruptionbudgets", &s.PDBs, func(ctx context.Context, namespace string, o metav1.ListOptions) ([]policyv1.PodDisruptionBudget, string, error) {
			l, err := r.client.PolicyV1().PodDisruptionBudgets(namespace).List(ctx, o)
			return l.Items, l.Continue, err
		}),
		namespaced(r, "services", &s.Services, func(ctx context.Context, namespace string, o metav1.ListOptions) ([]corev1.Service, string, error) {
			l, err := core.Services(namespace).List(ctx, o)
			return l.Items, l.Continue, err
		}),
		{"persistentvolumes", func(ctx context.Context) error {
			return pages(ctx, &s.Volumes, func(ctx context.Context, o metav1.ListOptions) ([]corev1.PersistentVolume, string, error) {
				l, err := core.PersistentVolumes().List(ctx, o)
				return l.Items, l.Continue, err
			})
		}},
	}
	if r.namespace == "" {
		parts = append(parts, part{"webhooks", r.readWebhooks})
	}
	return parts
}

// namespaced is a part that is listed in all namespaces. A person who asks about one namespace, and may not read others, gets that one.
func namespaced[T any](
	r *reader, name string, into *[]T, list func(ctx context.Context, namespace string, o metav1.ListOptions) (items []T, next string, err error),
) part {
	in := func(ctx context.Context, namespace string) error {
		return pages(ctx, into, func(ctx context.Context, o metav1.ListOptions) ([]T, string, error) { return list(ctx, namespace, o) })
	}
	return part{name, func(ctx context.Context) error {
		err := in(ctx, metav1.NamespaceAll)
		if r.namespace == "" || !apierrors.IsForbidden(err) {
			return err
		}
		if own := in(ctx, r.namespace); own != nil {
			return own
		}
		if name == "pods" {
			r.unread(doctor.OtherPods, advisedError{err, "leave it, or use a login that may list pods in all namespaces: room on other nodes was not checked"})
		}
		return nil
	}}
}

func (r *reader) readWebhooks(ctx context.Context) error {
	admission := r.client.AdmissionregistrationV1()
	validating, err := admission.ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	mutating, err := admission.MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var all []doctor.Webhook
	for _, c := range validating.Items {
		for _, w := range c.Webhooks {
			all = append(all, webhook(w))
		}
	}
	for _, c := range mutating.Items {
		for _, w := range c.Webhooks {
			all = append(all, webhook(admissionv1.ValidatingWebhook{
				Name: w.Name, FailurePolicy: w.FailurePolicy, ClientConfig: w.ClientConfig, Rules: w.Rules,
				NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, MatchConditions: w.MatchConditions,
			}))
		}
	}
	r.snapshot.Webhooks = all
	return nil
}

// webhook returns what doctor needs of a webhook. A mutating one has the same fields.
func webhook(w admissionv1.ValidatingWebhook) doctor.Webhook {
	found := doctor.Webhook{
		Name: w.Name, FailClosed: w.FailurePolicy == nil || *w.FailurePolicy == admissionv1.Fail, Rules: w.Rules,
		Namespaces: w.NamespaceSelector, Objects: w.ObjectSelector, Conditional: len(w.MatchConditions) > 0,
	}
	if service := w.ClientConfig.Service; service != nil {
		found.Service = service.Namespace + "/" + service.Name
	}
	return found
}

// poolerNamespaces returns the namespaces with poolers.
func (r *reader) poolerNamespaces() []string {
	return r.namespacesOf(func(p drain.Pod) bool { return pooler.Recognize(p.Labels, p.Annotations) })
}

// namespacesOf returns the namespaces with a pod that match takes.
func (r *reader) namespacesOf(match func(drain.Pod) bool) []string {
	found := map[string]bool{}
	for i := range r.snapshot.Pods {
		if p := kube.ToEscortPod(&r.snapshot.Pods[i]); match(p.Pod) {
			found[p.Namespace] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// readConfigMaps reads the ConfigMaps of namespaces with poolers. Others are not asked for.
func (r *reader) readConfigMaps(ctx context.Context) error {
	for _, namespace := range r.poolerNamespaces() {
		var found []corev1.ConfigMap
		err := pages(ctx, &found, func(ctx context.Context, o metav1.ListOptions) ([]corev1.ConfigMap, string, error) {
			l, err := r.client.CoreV1().ConfigMaps(namespace).List(ctx, o)
			return l.Items, l.Continue, err
		})
		if err != nil {
			return err
		}
		r.snapshot.ConfigMaps = append(r.snapshot.ConfigMaps, found...)
	}
	return nil
}
