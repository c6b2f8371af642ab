package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// leaseDuration is how long kwok must not take a node's Lease back: longer than any lab runs.
const leaseDuration = 24 * time.Hour

// StopKubelet makes a node's kubelet unreachable: Ready is Unknown, and no pod on the node starts or stops any more. It takes the
// node's Lease from kwok, which ignores the node and its pods once it has seen that. Existing pods are annotated, so that kwok
// stops none of them before.
func (l *Lab) StopKubelet(ctx context.Context, node string) error {
	err := l.takeNodeLease(ctx, node)
	if err == nil {
		err = l.disownNode(ctx, node)
	}
	if err == nil {
		err = l.disownPods(ctx, node)
	}
	if err != nil {
		return fmt.Errorf("stop the kubelet of %s: %w", node, err)
	}
	return nil
}

func (l *Lab) takeNodeLease(ctx context.Context, node string) error {
	holder, seconds, now := "lab", int32(leaseDuration.Seconds()), metav1.NowMicro()
	patch, err := json.Marshal(map[string]any{"spec": coordinationv1.LeaseSpec{
		HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &now,
	}})
	if err != nil {
		return fmt.Errorf("encode the lease: %w", err)
	}
	leases := l.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	if _, err = leases.Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("take the node's lease: %w", err)
	}
	return nil
}

// disownNode annotates the node, so that kwok does not make it Ready before it has seen that the Lease is taken.
func (l *Lab) disownNode(ctx context.Context, node string) error {
	nodes := l.client.CoreV1().Nodes()
	mark := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"stopped"}}}`, kubeletAnnotation)
	if _, err := nodes.Patch(ctx, node, types.MergePatchType, mark, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("mark the node: %w", err)
	}
	conditions := []corev1.NodeCondition{readyCondition(corev1.ConditionUnknown, "NodeStatusUnknown")}
	status, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": conditions}})
	if err != nil {
		return fmt.Errorf("encode the condition: %w", err)
	}
	if _, err := nodes.PatchStatus(ctx, node, status); err != nil { // strategic merge: the other conditions stay
		return fmt.Errorf("make the node's state unknown: %w", err)
	}
	return nil
}

func (l *Lab) disownPods(ctx context.Context, node string) error {
	pods, err := l.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return fmt.Errorf("list its pods: %w", err)
	}
	mark := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"stopped"}}}`, kubeletAnnotation)
	for _, p := range pods.Items {
		_, err := l.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, mark, metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark pod %s/%s: %w", p.Namespace, p.Name, err)
		}
	}
	return nil
}
