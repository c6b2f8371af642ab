package install

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// byHand are the permissions that a manifest offers in a comment: no option asks for them, and they are never extra.
const byHand = "quiesce-volumes"

// extra returns the permissions of the function in the cluster that the objects do not have, in the order in which they are removed. They
// remain where fewer options are given than before.
func (t *Target) extra(ctx context.Context, objects Set) (Set, error) {
	found, err := t.permissions(ctx, objects)
	found = slices.DeleteFunc(found, func(o *unstructured.Unstructured) bool { return o.GetNamespace() == "" && o.GetName() == byHand })
	return found, err
}

func asExtra(objects Set) (found []Change) {
	for _, o := range objects {
		found = append(found, Change{Object: describe(o), Result: Extra})
	}
	return found
}

// permissions returns the bindings of the function's group that are named as its own, and their roles, except those among the objects. A
// role without a binding permits nothing, and is not looked for.
func (t *Target) permissions(ctx context.Context, except Set) (found Set, err error) {
	bindings, err := t.client.RbacV1().RoleBindings(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list RoleBindings of all namespaces: %w", err)
	}
	clusterBindings, err := t.client.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list ClusterRoleBindings: %w", err)
	}
	known := map[string]bool{}
	for _, o := range except {
		known[describe(o)] = true
	}
	add := func(o *unstructured.Unstructured) {
		if !known[describe(o)] {
			known[describe(o)] = true
			found = append(found, o)
		}
	}
	addBoth := func(kind string, meta metav1.ObjectMeta, subjects []rbacv1.Subject, role rbacv1.RoleRef) {
		if !strings.HasPrefix(meta.Name, namePrefix) || !isOfGroup(subjects) {
			return
		}
		add(rbac(kind, meta.Namespace, meta.Name))
		if !strings.HasPrefix(role.Name, namePrefix) { // such as view
			return
		}
		if role.Kind == "ClusterRole" {
			meta.Namespace = ""
		}
		add(rbac(role.Kind, meta.Namespace, role.Name))
	}
	for _, b := range bindings.Items {
		addBoth("RoleBinding", b.ObjectMeta, b.Subjects, b.RoleRef)
	}
	for _, b := range clusterBindings.Items {
		addBoth("ClusterRoleBinding", b.ObjectMeta, b.Subjects, b.RoleRef)
	}
	slices.SortStableFunc(found, inRemovalOrder)
	return found, nil
}

// isOfGroup reports whether the function's group is the only subject.
func isOfGroup(subjects []rbacv1.Subject) bool {
	return len(subjects) == 1 && subjects[0].Kind == rbacv1.GroupKind && subjects[0].Name == group
}

func rbac(kind, namespace, name string) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetAPIVersion(rbacv1.SchemeGroupVersion.String())
	object.SetKind(kind)
	object.SetNamespace(namespace)
	object.SetName(name)
	return object
}
