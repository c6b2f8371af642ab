package patroni

import (
	"context"
	"fmt"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// VolumeMove is when the volume of a cluster's only member left one node and was there on another.
type VolumeMove struct{ Detached, Attached time.Time }

// WatchVolume watches the volume of a cluster with [EBSClaim], from now on. The returned function waits until it has moved.
func (c *Cluster) WatchVolume(ctx context.Context) (wait func() (VolumeMove, error), err error) {
	attachments := c.lab.Client().StorageV1().VolumeAttachments()
	list, err := attachments.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list attachments: %w", err)
	}
	watching, err := attachments.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return nil, fmt.Errorf("watch attachments: %w", err)
	}
	moved := make(chan VolumeMove, 1)
	go func() {
		defer close(moved)
		defer watching.Stop()
		var m VolumeMove
		for event := range watching.ResultChan() {
			if c.note(&m, event); !m.Attached.IsZero() {
				moved <- m
				return
			}
		}
	}()
	return func() (VolumeMove, error) {
		m, is := <-moved
		if !is {
			return m, fmt.Errorf("the watch of attachments ended before the volume of %s had moved", c.options.Namespace)
		}
		return m, nil
	}, nil
}

// note notes what an event says of the volume.
func (c *Cluster) note(m *VolumeMove, event watch.Event) {
	attachment, is := event.Object.(*storagev1.VolumeAttachment)
	if !is || attachment.Spec.Source.PersistentVolumeName == nil || *attachment.Spec.Source.PersistentVolumeName != c.options.Namespace {
		return
	}
	switch {
	case event.Type == watch.Deleted && m.Detached.IsZero():
		m.Detached = time.Now()
	case event.Type != watch.Deleted && !m.Detached.IsZero() && attachment.Status.Attached:
		m.Attached = time.Now()
	}
}
