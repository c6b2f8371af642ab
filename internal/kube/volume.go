package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"quiesce/internal/drain"
)

// AwaitDetached watches the cluster's VolumeAttachments until the node has none for a volume of these claims
// (namespace/name), or until ctx ends. The API cannot select them by node, so all are listed. Claims without volumes cost
// nothing (https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/volume-attachment-v1/).
func (c *Client) AwaitDetached(ctx context.Context, node drain.Node, claims []string) error {
	volumes, err := c.boundVolumes(ctx, claims)
	if err != nil || len(volumes) == 0 {
		return err
	}
	watchCtx, stop := context.WithCancel(ctx)
	defer stop()
	watched := &attachments{node: node.Name, volumes: volumes, attached: map[string]string{}, changed: make(chan struct{}, 1)}
	err = source[*storagev1.VolumeAttachment]{
		client: c.storage, resource: "volumeattachments", sink: watched,
		list: func() runtime.Object { return &storagev1.VolumeAttachmentList{} },
	}.start(watchCtx).wait(ctx)
	if err != nil {
		return fmt.Errorf("list volume attachments: %w", err)
	}
	return watched.awaitDetached(ctx)
}

// boundVolumes returns the names of the PersistentVolumes that are bound to the claims. A claim that is gone is skipped.
func (c *Client) boundVolumes(ctx context.Context, claims []string) (map[string]bool, error) {
	volumes := map[string]bool{}
	for _, claim := range claims {
		namespace, name, _ := strings.Cut(claim, "/")
		found := &corev1.PersistentVolumeClaim{}
		err := c.core.Get().Namespace(namespace).Resource("persistentvolumeclaims").Name(name).
			Timeout(callTimeout).Do(ctx).Into(found)
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("get claim %s: %w", claim, err)
		}
		if found.Spec.VolumeName != "" {
			volumes[found.Spec.VolumeName] = true
		}
	}
	return volumes, nil
}

// attachments watches the VolumeAttachments of some volumes on one node.
type attachments struct {
	node    string
	volumes map[string]bool
	changed chan struct{}

	mu       sync.Mutex
	attached map[string]string // attachment to volume
}

// awaitDetached returns when no volume is attached. When ctx ends first, the error names the volumes that are.
func (a *attachments) awaitDetached(ctx context.Context) error {
	for {
		volumes := a.stillAttached()
		if len(volumes) == 0 {
			return nil
		}
		select {
		case <-a.changed:
		case <-ctx.Done():
			return fmt.Errorf("volumes still attached: %s: %w", strings.Join(volumes, ", "), context.Cause(ctx))
		}
	}
}

func (a *attachments) stillAttached() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Values(a.attached))
}

func (a *attachments) put(v *storagev1.VolumeAttachment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.add(v)
}

func (a *attachments) drop(v *storagev1.VolumeAttachment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.attached, v.Name)
	a.notify()
}

func (a *attachments) replace(all []*storagev1.VolumeAttachment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.attached)
	for _, v := range all {
		a.add(v)
	}
	a.notify()
}

func (a *attachments) add(v *storagev1.VolumeAttachment) {
	if volume := v.Spec.Source.PersistentVolumeName; v.Spec.NodeName == a.node && volume != nil && a.volumes[*volume] {
		a.attached[v.Name] = *volume
	}
}

func (a *attachments) notify() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}
