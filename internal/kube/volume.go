package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"quiesce/internal/drain"
)

const (
	// maxVolumesNamed bounds the volumes that an error names.
	maxVolumesNamed = 10
	// maxClaimLookups bounds the requests about claims of pods that stay. An instance has at most 128 volumes.
	maxClaimLookups = 128
)

// AwaitDetached watches the VolumeAttachments until the node has none but those of the pods that stay, or until ctx ends. It
// returns how many it has waited for. The attachments tell which volumes to wait for: also those of pods that an earlier
// invocation or another client evicted. The API cannot select attachments by node, so all are listed, item by item. Without one
// on the node, that list is the only request
// (https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/volume-attachment-v1/).
func (c *Client) AwaitDetached(ctx context.Context, node drain.Node, stay []drain.Pod) (detached int, err error) {
	watchCtx, stop := context.WithCancel(ctx)
	defer stop()
	watched := &attachments{node: node.Name, changed: make(chan struct{}, 1)}
	err = source[attachment]{
		Client: c, api: c.storage, resource: "volumeattachments", decode: decodeAttachment, sink: watched,
	}.start(watchCtx).wait(ctx)
	if err != nil {
		return 0, fmt.Errorf("list volume attachments: %w", err)
	}
	first := watched.remaining(nil)
	if len(first) == 0 {
		return 0, nil
	}
	staying, unknown := c.boundVolumes(ctx, stay)
	return watched.awaitDetached(ctx, first, staying, unknown)
}

// boundVolumes returns the names of the PersistentVolumes that are bound to the pods' claims. A claim that is gone is skipped. If
// one cannot be read, its volume is waited for like others, and the error says so.
func (c *Client) boundVolumes(ctx context.Context, pods []drain.Pod) (volumes map[string]bool, unknown error) {
	volumes = map[string]bool{}
	lookups := 0
	for _, pod := range pods {
		for _, claim := range pod.Claims {
			if lookups++; lookups > maxClaimLookups {
				return volumes, errors.New("the pods that stay have too many claims")
			}
			found := &corev1.PersistentVolumeClaim{}
			err := c.core.Get().Namespace(pod.Namespace).Resource("persistentvolumeclaims").Name(claim).
				Timeout(callTimeout).Do(ctx).Into(found)
			if err != nil && !apierrors.IsNotFound(err) {
				unknown = fmt.Errorf("get claim %s/%s: %w", pod.Namespace, claim, bounded(err))
				if apierrors.IsForbidden(err) || ctx.Err() != nil {
					return volumes, unknown
				}
			}
			if found.Status.Phase == corev1.ClaimBound { // before that, a claim may name any volume
				volumes[found.Spec.VolumeName] = true
			}
		}
	}
	return volumes, unknown
}

// attachment is the part of a VolumeAttachment that decides whether to wait for it.
type attachment struct{ name, node, volume string }

// attachmentFields are its fields in https://github.com/kubernetes/api/blob/master/storage/v1/generated.proto.
var attachmentFields = wireFields{objectMetadata: {1: nil}, 2: {2: {1: nil}, 3: nil}} // spec: source.persistentVolumeName, nodeName

func decodeAttachment(object []byte) (attachment, error) {
	var v storagev1.VolumeAttachment
	if err := decodeKept(object, attachmentFields, &v); err != nil {
		return attachment{}, err
	}
	a := attachment{name: v.Name, node: v.Spec.NodeName}
	if volume := v.Spec.Source.PersistentVolumeName; volume != nil {
		a.volume = *volume
	}
	return a, nil
}

// label returns the volume's name. The volume of a pod that names a disk itself, without a claim, has none: the attachment's name
// stands for it. It is waited for, since it may be a pod's that has left, and the wait is bounded.
func (a attachment) label() string {
	if a.volume == "" {
		return a.name
	}
	return a.volume
}

// attachments watches the VolumeAttachments of one node.
type attachments struct {
	node    string
	changed chan struct{}

	mu            sync.Mutex
	current, next map[string]attachment // by name; next is a list that is not complete yet, or nil
}

// awaitDetached returns when no volume is attached but those that stay. When ctx ends first, the error names those that are. Volumes that
// were attached first count, though they may have been detached while the claims were read.
func (a *attachments) awaitDetached(ctx context.Context, first []string, staying map[string]bool, unknown error) (detached int, err error) {
	seen := map[string]bool{}
	for _, volume := range first {
		if !staying[volume] {
			seen[volume] = true
		}
	}
	for {
		remaining := a.remaining(staying)
		for _, volume := range remaining {
			seen[volume] = true
		}
		if len(remaining) == 0 {
			return len(seen), nil
		}
		select {
		case <-a.changed:
		case <-ctx.Done():
			err := fmt.Errorf("volumes still attached: %s: %w", drain.Names(remaining, maxVolumesNamed), context.Cause(ctx))
			return len(seen) - len(remaining), errors.Join(err, unknown)
		}
	}
}

// remaining returns the volumes that are attached and do not stay, sorted.
func (a *attachments) remaining(staying map[string]bool) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	volumes := map[string]bool{}
	for _, v := range a.current {
		if !staying[v.volume] {
			volumes[v.label()] = true
		}
	}
	return slices.Sorted(maps.Keys(volumes))
}

func (a *attachments) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next = map[string]attachment{}
}

func (a *attachments) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.current, a.next = a.next, nil
	a.notify()
}

func (a *attachments) put(v attachment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if v.node != a.node {
		return
	}
	if a.next != nil {
		a.next[v.name] = v
		return
	}
	a.current[v.name] = v
	a.notify()
}

func (a *attachments) drop(v attachment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next != nil {
		delete(a.next, v.name)
		return
	}
	delete(a.current, v.name)
	a.notify()
}

func (a *attachments) notify() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}
