package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

const (
	// maxPodAnswer bounds what a pod answers through the API server. Patroni and CloudNativePG send a few kilobytes.
	maxPodAnswer = 1 << 20
	// maxListedPods bounds the pods of one list that are kept. It is more than most namespaces have.
	maxListedPods = 5000
	// maxListedBytes bounds them, in bytes of protobuf. A pod has some ten thousand. The function may have 256 MB, whatever tenants write.
	maxListedBytes = 32 << 20
)

// annotatedKinds are the kinds in whose annotations Patroni keeps its state.
var annotatedKinds = []string{"endpoints", "configmaps"}

var claimResource = resource{"/api/v1", "persistentvolumeclaims"}

// Annotated returns the metadata of an object of the kind endpoints or configmaps; nil: there is none.
func (c *Client) Annotated(ctx context.Context, kind, namespace, name string) (*escort.Annotated, error) {
	if !slices.Contains(annotatedKinds, kind) {
		return nil, fmt.Errorf("%s has no annotated objects", kind)
	}
	var object struct {
		Metadata struct {
			objectMeta
			ResourceVersion string
			Annotations     map[string]string
		}
	}
	found, err := c.readIfExists(ctx, resource{"/api/v1", kind}, namespace, name, &object)
	if !found || err != nil {
		return nil, err
	}
	m := object.Metadata
	return &escort.Annotated{
		Namespace: namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, Labels: m.Labels, Annotations: m.Annotations,
	}, nil
}

// Custom reads a custom resource into a type with the fields that are needed. It reports false if there is none, or no such kind.
func (c *Client) Custom(ctx context.Context, group, kind, namespace, name string, into any) (found bool, err error) {
	return c.readIfExists(ctx, resource{"/apis/" + group, kind}, namespace, name, into)
}

// readIfExists is read that reports whether the object exists. The error says which permission is missing.
func (c *Client) readIfExists(ctx context.Context, r resource, namespace, name string, into any) (found bool, err error) {
	err = c.read(ctx, r, namespace, name, into)
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("get %s %s/%s: %w", r.name, namespace, name, withPermission(err))
	default:
		return true, nil
	}
}

// withPermission marks the error if a permission is missing.
func withPermission(err error) error {
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("%w: %w", escort.ErrForbidden, bounded(err))
	}
	return bounded(err)
}

var errTooManyPods = errors.New("too many pods match, or they are too large")

// PodsByLabel returns the pods of a namespace that have all these labels; without any, all pods.
func (c *Client) PodsByLabel(ctx context.Context, namespace string, wanted map[string]string) ([]escort.Pod, error) {
	selector, err := labels.ValidatedSelectorFromSet(wanted)
	if err == nil && !isName(namespace) {
		err = errors.New("this is not the name of a namespace")
	}
	if err != nil {
		return nil, fmt.Errorf("list pods by label: %w", err)
	}
	options := metav1.ListOptions{LabelSelector: selector.String()}
	request := c.core.Get().Namespace(namespace).Resource("pods").VersionedParams(&options, params)
	var all boundedPods
	err = eachObject(ctx, request, func(object []byte) error {
		var pod corev1.Pod
		if err := decodeKept(object, databasePodFields, &pod); err != nil {
			return err
		}
		return all.add(&pod, len(object))
	})
	if err != nil {
		return nil, fmt.Errorf("list pods of namespace %s: %w", namespace, withPermission(err))
	}
	return all.pods, nil
}

// boundedPods are the pods of one list, within maxListedPods and maxListedBytes.
type boundedPods struct {
	pods []escort.Pod
	size int // in bytes of protobuf
}

func (b *boundedPods) add(p *corev1.Pod, size int) error {
	if b.size += size; len(b.pods) == maxListedPods || b.size > maxListedBytes {
		return errTooManyPods
	}
	b.pods = append(b.pods, *ToEscortPod(p))
	return nil
}

// databasePodFields are the fields of a pod that databases and their poolers need: those of a drain, the containers and the address.
var databasePodFields = func() wireFields {
	fields, status := maps.Clone(podFields), maps.Clone(podFields[3])
	status[6] = nil // podIP
	fields[2], fields[3] = nil, status
	return fields
}()

// leavingTaints are the taints of a node that is about to go, with what they mean. Cluster Autoscaler
// (https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/utils/taints/taints.go), Karpenter
// (https://karpenter.sh/docs/concepts/disruption/), and quiesce itself. CloudNativePG calls them DRAIN_TAINTS.
var leavingTaints = map[string]string{
	terminatingTaint.Key:                        "it is being terminated",
	"ToBeDeletedByClusterAutoscaler":            "Cluster Autoscaler removes it",
	"karpenter.sh/disrupted":                    "Karpenter removes it",
	"karpenter.sh/disruption":                   "Karpenter removes it",
	corev1.TaintNodeOutOfService:                "it is out of service",
	corev1.TaintNodeUnreachable:                 "its kubelet does not report",
	"node.cloudprovider.kubernetes.io/shutdown": "its instance is stopped",
}

// NodeFate returns whether the node stays.
func (c *Client) NodeFate(ctx context.Context, name string) (escort.NodeFate, error) {
	node, err := c.getNode(ctx, name)
	if apierrors.IsNotFound(err) {
		return escort.NodeFate{Leaving: "it does not exist"}, nil
	}
	if err != nil {
		return escort.NodeFate{}, fmt.Errorf("get node %s: %w", name, withPermission(err))
	}
	return escort.NodeFate{
		Zone: node.Labels[corev1.LabelTopologyZone], Created: node.CreationTimestamp.Time, Leaving: WhyLeaving(node),
	}, nil
}

// WhyLeaving returns why a node does not stay; empty: it does.
func WhyLeaving(node *corev1.Node) string {
	if node.DeletionTimestamp != nil {
		return "it is being deleted"
	}
	for _, taint := range node.Spec.Taints {
		if why, leaving := leavingTaints[taint.Key]; leaving {
			return why
		}
	}
	if node.Spec.Unschedulable {
		return "it is cordoned"
	}
	return ""
}

// GetFromPod sends a GET to a pod's port through the API server. TLS certificates are not checked there
// (https://kubernetes.io/docs/tasks/access-application-cluster/access-cluster-services/).
func (c *Client) GetFromPod(ctx context.Context, pod drain.Ref, port int, tls bool, path string) ([]byte, error) {
	if !isName(pod.Namespace) || !isName(pod.Name) {
		return nil, fmt.Errorf("%q is not the name of a pod", drain.Short(pod.String()))
	}
	target := pod.Name + ":" + strconv.Itoa(port)
	if tls {
		target = "https:" + target
	}
	request := c.core.Get().AbsPath("/api/v1", "namespaces", pod.Namespace, "pods", target, "proxy").Suffix(strings.TrimPrefix(path, "/"))
	body, err := stream(ctx, request.MaxRetries(0)) // the pod could ask for many
	if err != nil {
		return nil, fmt.Errorf("get %s of pod %s at port %d: %w", path, pod, port, withPermission(err))
	}
	defer func() { _ = body.Close() }()
	answer, err := io.ReadAll(&limitedReader{body, maxPodAnswer})
	if err != nil {
		return nil, fmt.Errorf("get %s of pod %s at port %d: %w", path, pod, port, err)
	}
	return answer, nil
}

// attachableProvisioners make volumes that can be attached to another node, within their zone.
var attachableProvisioners = []string{
	"ebs.csi.aws.com", "kubernetes.io/aws-ebs", "ebs.csi.eks.amazonaws.com", "efs.csi.aws.com", "fsx.csi.aws.com", "fsx.openzfs.csi.aws.com",
}

// provisionerAnnotation is on a claim whose volume was made on demand
// (https://kubernetes.io/docs/reference/labels-annotations-taints/#volume-kubernetes-io-storage-provisioner).
const provisionerAnnotation = "volume.kubernetes.io/storage-provisioner"

// VolumeFollows reports whether the volume of a claim outlives its pod and can be attached to another node. The claim says who made the
// volume. A claim that a pod owns is deleted with it, such as that of a generic ephemeral volume
// (https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#lifecycle-and-persistentvolumeclaim).
func (c *Client) VolumeFollows(ctx context.Context, namespace, claim string) (bool, error) {
	var object struct {
		Metadata struct {
			Annotations     map[string]string
			OwnerReferences []metav1.OwnerReference
		}
	}
	found, err := c.readIfExists(ctx, claimResource, namespace, claim, &object)
	isPod := func(owner metav1.OwnerReference) bool { return owner.APIVersion == "v1" && owner.Kind == "Pod" }
	provisioner := object.Metadata.Annotations[provisionerAnnotation]
	return found && !slices.ContainsFunc(object.Metadata.OwnerReferences, isPod) && slices.Contains(attachableProvisioners, provisioner), err
}
