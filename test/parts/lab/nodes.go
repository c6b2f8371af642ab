package lab

import (
	"context"
	"fmt"
	"maps"
	"sync"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/test/parts/tools"
)

// nodeCreations is how many nodes are created at once: enough to keep two cores busy.
const nodeCreations = 32

// Node describes a node to add.
type Node struct {
	Name       string // on EKS the private DNS name: ip-10-0-1-2.ec2.internal
	InstanceID string
	Zone       string            // such as us-east-1a; the region is the zone without its letter
	IP         string            // its InternalIP; may be empty
	Labels     map[string]string // in addition to those of every EKS node
	// Background nodes have no kubelet, but the images that one reports: they are what a large cluster has beside those of a test. The
	// node controller takes them for Ready for some minutes.
	Background bool
}

const (
	// imagesPerNode is how many images a kubelet reports at the most, and imageSize about how long their names are. They are most of a
	// node's bytes.
	imagesPerNode, imageSize = 50, 150
)

// AddNodes registers nodes as EKS does, Ready, and waits until pods can run on all of them. 3,000 nodes take some ten seconds on
// two cores.
func (l *Lab) AddNodes(ctx context.Context, nodes ...Node) error {
	if l.options.Machines {
		return l.addMachines(ctx, nodes)
	}
	if err := l.createNodes(ctx, nodes); err != nil {
		return fmt.Errorf("add nodes: %w", err)
	}
	if err := l.awaitKubelets(ctx, nodes); err != nil {
		return fmt.Errorf("wait for the added nodes: %w", err)
	}
	return nil
}

func (l *Lab) createNodes(ctx context.Context, nodes []Node) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan Node)
	var group sync.WaitGroup
	for range min(nodeCreations, len(nodes)) {
		group.Go(func() {
			for n := range queue {
				if _, err := l.client.CoreV1().Nodes().Create(ctx, n.object(), metav1.CreateOptions{}); err != nil {
					cancel(err) // the remaining creations fail at once
				}
			}
		})
	}
	for _, n := range nodes {
		queue <- n
	}
	close(queue)
	group.Wait()
	return context.Cause(ctx)
}

// awaitKubelets waits until kwok holds the Lease of each node: no pod starts on the node before. A loaded API server may end a
// watch at any time.
func (l *Lab) awaitKubelets(ctx context.Context, nodes []Node) error {
	waiting := map[string]bool{}
	for _, n := range nodes {
		if !n.Background {
			waiting[n.Name] = true
		}
	}
	for len(waiting) > 0 {
		if err := l.watchLeases(ctx, waiting); err != nil {
			return fmt.Errorf("%d nodes are still to come: %w", len(waiting), err)
		}
	}
	return nil
}

// watchLeases removes nodes whose Leases it sees from waiting, until none remains or the watch ends. A watch starts with the
// existing Leases.
func (l *Lab) watchLeases(ctx context.Context, waiting map[string]bool) error {
	leases, err := l.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer leases.Stop()
	for event := range leases.ResultChan() {
		if lease, ok := event.Object.(*coordinationv1.Lease); ok {
			delete(waiting, lease.Name)
		}
		if len(waiting) == 0 {
			return nil
		}
	}
	return context.Cause(ctx)
}

func (n Node) object() *corev1.Node {
	resources := corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse("1000"),
		corev1.ResourceMemory:           resource.MustParse("1Ti"),
		corev1.ResourceEphemeralStorage: resource.MustParse("1Ti"),
		corev1.ResourcePods:             resource.MustParse("10000"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:        n.Name,
			Labels:      n.labels(),
			Annotations: n.annotations(),
		},
		Spec: corev1.NodeSpec{ProviderID: n.providerID()},
		Status: corev1.NodeStatus{
			Capacity:    resources,
			Allocatable: resources,
			Conditions:  []corev1.NodeCondition{readyCondition(corev1.ConditionTrue, "KubeletReady")},
			Addresses:   n.addresses(),
			Images:      n.images(),
			NodeInfo:    corev1.NodeSystemInfo{KubeletVersion: kubernetesVersion(), OperatingSystem: "linux", Architecture: "amd64"},
		},
	}
}

// annotations returns the one by which kwok knows its nodes.
func (n Node) annotations() map[string]string {
	if n.Background {
		return nil
	}
	return map[string]string{"kwok.x-k8s.io/node": "fake"}
}

func (n Node) images() (all []corev1.ContainerImage) {
	if !n.Background {
		return nil
	}
	for image := range imagesPerNode {
		name := fmt.Sprintf("registry.example/%0*d", imageSize, image)
		all = append(all, corev1.ContainerImage{Names: []string{name}, SizeBytes: 1 << 20})
	}
	return all
}

// kubernetesVersion returns what the kubelets say: the same as the control plane.
func kubernetesVersion() string {
	version, _ := tools.Kubernetes() // a lab does not start with an unknown version
	return version
}

func (n Node) addresses() []corev1.NodeAddress {
	all := []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: n.Name}, {Type: corev1.NodeInternalDNS, Address: n.Name}}
	if n.IP != "" {
		all = append(all, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: n.IP})
	}
	return all
}

func (n Node) providerID() string { return "aws:///" + n.Zone + "/" + n.InstanceID }

// labels returns the labels of an EKS node (https://kubernetes.io/docs/reference/labels-annotations-taints/) and its own.
func (n Node) labels() map[string]string {
	labels := map[string]string{
		corev1.LabelHostname:      n.Name,
		corev1.LabelOSStable:      "linux",
		corev1.LabelArchStable:    "amd64",
		"beta.kubernetes.io/os":   "linux", // kubelets still set these two; otherwise the node controller does
		"beta.kubernetes.io/arch": "amd64",
	}
	maps.Copy(labels, n.machineLabels())
	return labels
}

// machineLabels returns the labels that a kubelet does not set by itself.
func (n Node) machineLabels() map[string]string {
	labels := map[string]string{
		corev1.LabelTopologyZone:       n.Zone,
		corev1.LabelTopologyRegion:     n.Zone[:max(0, len(n.Zone)-1)],
		corev1.LabelInstanceTypeStable: "m7i.large",
	}
	maps.Copy(labels, n.Labels)
	return labels
}

func readyCondition(status corev1.ConditionStatus, reason string) corev1.NodeCondition {
	now := metav1.Now()
	return corev1.NodeCondition{
		Type: corev1.NodeReady, Status: status, Reason: reason, LastHeartbeatTime: now, LastTransitionTime: now,
	}
}

// RemoveNode deletes a node, as the cloud's node controller does after the instance is gone.
func (l *Lab) RemoveNode(ctx context.Context, name string) error {
	if err := l.client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("remove node %s: %w", name, err)
	}
	return nil
}
