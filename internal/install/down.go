package install

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	// group is the function's in Kubernetes. namePrefix begins the names of all that is installed for it.
	group      = "quiesce"
	namePrefix = "quiesce"
	// pausedAnnotation is on a Lease whose holder has paused poolers for a move. escortAnnotation begins the key of what a drain changed about
	// a pod, before the pod's UID. closedAnnotation is on a node that quiesce has closed.
	pausedAnnotation = "quiesce/paused"
	escortAnnotation = "quiesce/escort."
	closedAnnotation = "quiesce/termination"
)

// Down removes everything of quiesce, whatever was asked for when it was installed. It refuses while a drain runs, a node is closed or a
// pooler is paused: what undoes that is recorded in the namespace that it removes. Permissions go first, and the policies that confine
// them last: a removal that ends in the middle leaves nothing unconfined.
func (t *Target) Down(ctx context.Context) (done []Change, err error) {
	if err := t.checkIdle(ctx); err != nil {
		return nil, err
	}
	objects, err := t.removable(ctx)
	if err != nil {
		return nil, err
	}
	return t.remove(ctx, objects)
}

// removable returns everything of quiesce, in the order in which it is removed.
func (t *Target) removable(ctx context.Context) (Set, error) {
	some := func(name string) []Cluster { return []Cluster{{namespace, name, []string{"any"}}} }
	objects, err := Objects(Options{Patroni: some("a"), CloudNativePG: some("b")}) // for their policies, which are of no namespace
	if err != nil {
		return nil, err
	}
	objects = slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool {
		return strings.HasPrefix(o.GetName(), "quiesce-postgres-")
	})
	permissions, err := t.permissions(ctx, objects)
	if err != nil {
		return nil, err
	}
	objects = append(objects, permissions...)
	slices.SortStableFunc(objects, inRemovalOrder)
	return objects, nil
}

func inRemovalOrder(a, b *unstructured.Unstructured) int {
	return cmp.Compare(removalOrder[a.GetKind()], removalOrder[b.GetKind()])
}

var removalOrder = map[string]int{
	"ClusterRoleBinding": 1, "RoleBinding": 1, "ClusterRole": 2, "Role": 2, "Namespace": 3, "ValidatingAdmissionPolicyBinding": 4,
	"ValidatingAdmissionPolicy": 5,
}

func (t *Target) remove(ctx context.Context, objects Set) (done []Change, err error) {
	for _, object := range objects {
		change := Change{Object: describe(object), Result: Deleted}
		resource, err := t.resource(object)
		if err != nil {
			return done, err
		}
		switch err := resource.Delete(ctx, object.GetName(), metav1.DeleteOptions{}); {
		case apierrors.IsNotFound(err):
			change.Result = Absent
		case err != nil:
			return done, fmt.Errorf("delete %s: %w", change.Object, err)
		}
		done = append(done, change)
	}
	return done, nil
}

// checkIdle returns an error that names what is still needed.
func (t *Target) checkIdle(ctx context.Context) error {
	leases, err := t.client.CoordinationV1().Leases(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the Leases of quiesce: %w", err)
	}
	changed, err := t.changedPods(ctx, leases.Items)
	if err != nil {
		return err
	}
	var needed []string
	paused := false
	for _, l := range leases.Items {
		switch {
		case l.Annotations[pausedAnnotation] != "":
			paused, needed = true, append(needed, "Lease "+l.Name+" (poolers are paused)")
		case isHeld(l):
			needed = append(needed, "Lease "+l.Name+" (a drain runs)")
		case len(changed[l.Name]) > 0:
			paused, needed = true, append(needed, "Lease "+l.Name+" (a drain may have paused "+strings.Join(changed[l.Name], ", ")+")")
		}
	}
	nodes, err := t.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	for _, n := range nodes.Items {
		if n.Annotations[closedAnnotation] != "" {
			needed = append(needed, "node "+n.Name+" (cordoned by a drain that is not over)")
		}
	}
	if len(needed) == 0 {
		return nil
	}
	next := "pause its stack first, and wait until its drains are over, or open its nodes (infra/README.md)"
	if paused {
		next += "; then resume what is still paused: quiescectl resume; its record stays for 16 minutes"
	}
	return errors.New("nothing was removed, because it is still in use: " + strings.Join(needed, ", ") + "; " + next)
}

// changedPods returns the pods that drains have recorded as changed, by Lease. A record of a pod that is gone says nothing any more. Pods
// are listed only if there is a record.
func (t *Target) changedPods(ctx context.Context, leases []coordinationv1.Lease) (map[string][]string, error) {
	recorded := map[string]string{} // Leases by the pod's UID
	for _, l := range leases {
		for key := range l.Annotations {
			if uid, is := strings.CutPrefix(key, escortAnnotation); is {
				recorded[uid] = l.Name
			}
		}
	}
	if len(recorded) == 0 {
		return nil, nil
	}
	pods, err := t.client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list pods, to find those that drains have changed: %w", err)
	}
	changed := map[string][]string{}
	for _, p := range pods.Items {
		if lease, is := recorded[string(p.UID)]; is {
			changed[lease] = append(changed[lease], p.Namespace+"/"+p.Name)
		}
	}
	return changed, nil
}

// isHeld reports whether a Lease is renewed.
func isHeld(l coordinationv1.Lease) bool {
	s := l.Spec
	return s.HolderIdentity != nil && *s.HolderIdentity != "" && s.RenewTime != nil && s.LeaseDurationSeconds != nil &&
		time.Since(s.RenewTime.Time) < time.Duration(*s.LeaseDurationSeconds)*time.Second
}
