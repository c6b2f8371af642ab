package install

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

const (
	// fieldManager owns what was applied, in the API server's record of who set which field.
	fieldManager = "quiescectl"
	// namespace has the Leases of the function.
	namespace = "quiesce"
	// callTimeout bounds one request. A person waits for it; an API server that is slower has another problem.
	callTimeout = 15 * time.Second
)

// Target is a cluster of Kubernetes that is installed into.
type Target struct {
	client kubernetes.Interface
	any    dynamic.Interface
	mapper meta.RESTMapper
}

// Connect sends no request. The timeout of each request is callTimeout.
func Connect(c *rest.Config) (*Target, error) {
	config := rest.CopyConfig(c)
	config.Timeout = callTimeout
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	any, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &Target{client, any, restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))}, nil
}

// Set is what is installed, in this order.
type Set []*unstructured.Unstructured

// Change is what was done, or would be done, about one object.
type Change struct {
	Object string   `json:"object"`           // kind namespace/name
	Result string   `json:"result"`           // created, changed, unchanged; extra; deleted, absent
	Fields []string `json:"fields,omitempty"` // that differ, with the value before and after
}

// The results.
const (
	Created   = "created"
	Changed   = "changed"
	Unchanged = "unchanged"
	Extra     = "extra" // permissions of the function that no option asks for
	Deleted   = "deleted"
	Absent    = "absent"
)

// UpOptions say what Up may take away.
type UpOptions struct {
	Force       bool // take over fields that another tool has set
	RemoveExtra bool // remove permissions of the function that the objects do not have
}

// Up installs the objects, in their order. It ends at the first error: what it returns was done. Extra permissions are not removed unless
// that is asked for: who applied a copy of a manifest by hand, or forgot a flag, would lose what a drain needs.
func (t *Target) Up(ctx context.Context, objects Set, o UpOptions) (done []Change, err error) {
	for _, object := range objects {
		change, err := t.apply(ctx, object, metav1.PatchOptions{FieldManager: fieldManager, Force: &o.Force})
		if apierrors.IsConflict(err) && t.isSame(ctx, object) {
			change, err = t.apply(ctx, object, metav1.PatchOptions{FieldManager: fieldManager, Force: new(true)})
		}
		if apierrors.IsConflict(err) {
			return done, fmt.Errorf("%w; --force-conflicts takes these fields over", err)
		}
		if err != nil {
			return done, err
		}
		done = append(done, change)
	}
	extra, err := t.extra(ctx, objects)
	if err != nil {
		return done, err
	}
	if !o.RemoveExtra {
		return append(done, asExtra(extra)...), nil
	}
	removed, err := t.remove(ctx, extra)
	return append(done, removed...), err
}

// isSame reports whether the object is in the cluster as it should be. Then another tool has set the same values: kubectl apply, of the same
// manifest. To take them over changes nothing.
func (t *Target) isSame(ctx context.Context, object *unstructured.Unstructured) bool {
	change, err := t.apply(ctx, object, metav1.PatchOptions{FieldManager: fieldManager, Force: new(true), DryRun: []string{metav1.DryRunAll}})
	return err == nil && change.Result == Unchanged
}

// Verify compares the objects with those in the cluster, and names extra permissions. It changes nothing. Of a field that is not in the
// manifests, it says nothing.
func (t *Target) Verify(ctx context.Context, objects Set) (found []Change, err error) {
	force := true
	for _, object := range objects {
		change, err := t.apply(ctx, object, metav1.PatchOptions{FieldManager: fieldManager, Force: &force, DryRun: []string{metav1.DryRunAll}})
		if isNoNamespace(err, object.GetNamespace()) { // a dry run creates none
			change, err = Change{Object: describe(object), Result: Created}, nil
		}
		if err != nil {
			return found, err
		}
		found = append(found, change)
	}
	extra, err := t.extra(ctx, objects)
	return append(found, asExtra(extra)...), err
}

// isNoNamespace reports whether a request failed because the namespace is missing.
func isNoNamespace(err error, namespace string) bool {
	var status apierrors.APIStatus
	return namespace != "" && apierrors.IsNotFound(err) && errors.As(err, &status) && status.Status().Details != nil &&
		status.Status().Details.Kind == "namespaces"
}

func (t *Target) apply(ctx context.Context, object *unstructured.Unstructured, options metav1.PatchOptions) (Change, error) {
	change := Change{Object: describe(object)}
	resource, err := t.resource(object)
	if err != nil {
		return change, err
	}
	before, err := resource.Get(ctx, object.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		before, err = nil, nil
	}
	if err != nil {
		return change, fmt.Errorf("read %s: %w", change.Object, err)
	}
	body, err := object.MarshalJSON()
	if err != nil {
		return change, fmt.Errorf("encode %s: %w", change.Object, err)
	}
	after, err := resource.Patch(ctx, object.GetName(), types.ApplyPatchType, body, options)
	if err != nil {
		return change, fmt.Errorf("apply %s: %w", change.Object, err)
	}
	switch change.Fields = differences("", content(before), content(after)); {
	case before == nil:
		change.Result, change.Fields = Created, nil
	case len(change.Fields) == 0:
		change.Result = Unchanged
	default:
		change.Result = Changed
	}
	return change, nil
}

func (t *Target) resource(object *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := object.GroupVersionKind()
	mapping, err := t.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) && kind.Group == "admissionregistration.k8s.io" {
		return nil, fmt.Errorf("the cluster has no %s: upgrade it to Kubernetes 1.30, or apply the output of render without the policies", kind.Kind)
	}
	if err != nil {
		return nil, fmt.Errorf("find the resource of %s: %w", describe(object), err)
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return t.any.Resource(mapping.Resource).Namespace(object.GetNamespace()), nil
	}
	return t.any.Resource(mapping.Resource), nil
}

func describe(object *unstructured.Unstructured) string {
	name := object.GetName()
	if ns := object.GetNamespace(); ns != "" {
		name = ns + "/" + name
	}
	return object.GetKind() + " " + name
}
