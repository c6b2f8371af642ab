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

// AwaitDetached implements termination.Surroundings: it watches the cluster's VolumeAttachments until none is left on the node for
// a volume of these claims, or ctx ends. They cannot be selected by node, so that all are listed; claims without volumes
// cost nothing (https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/volume-attachment-v1/).
func (c *Client) AwaitDetached(ctx context.Context, node drain.Node, claims []string) error {
	volumes, err := c.boundVolumes(ctx, claims)
	if err != nil || len(volumes) == 0 {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	attached := &attachments{node: node.Name, volumes: volumes, attached: map[string]string{}, changed: make(chan struct{}, 1)}
	err = source[*storagev1.VolumeAttachment]{
		client: c.storage, resource: "volumeattachments", sink: attached,
		list: func() runtime.Object { return &storagev1.VolumeAttachmentList{} },
	}.start(watching).wait(ctx)
	if err != nil {
		return fmt.Errorf("list volume attachments: %w", err)
	}
	return attached.awaitDetached(ctx)
}

// boundVolumes are the names of the PersistentVolumes bound to the claims. A claim that is gone took its pod's volume along.
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

// attachments are those of some volumes on one node, under watch.
type attachments struct {
	node    string
	volumes map[string]bool
	changed chan struct{}

	mu       sync.Mutex
	attached map[string]string // attachment to volume
}

func (a *attachments) awaitDetached(ctx context.Context) error {
	for {
		left := a.stillAttached()
		if len(left) == 0 {
			return nil
		}
		select {
		case <-a.changed:
		case <-ctx.Done():
			return fmt.Errorf("volumes %s: %w", strings.Join(left, ", "), context.Cause(ctx))
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
