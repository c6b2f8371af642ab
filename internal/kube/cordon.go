package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
)

const (
	// terminationAnnotation notes on a node which termination it is drained for, and what was changed for it.
	terminationAnnotation = "quiesce/termination"
	// excludeLabel takes a node out of external load balancers
	// (https://kubernetes.io/docs/reference/labels-annotations-taints/#node-kubernetes-io-exclude-from-external-load-balancers).
	excludeLabel = corev1.LabelNodeExcludeBalancers
	// excludeValue tells our label from anybody else's: its mere presence is what excludes.
	excludeValue = "quiesce"
	// conflictRetries bounds how often a change is made anew because the node changed meanwhile: kubelets write every few
	// seconds, so that even the second collision is unlikely.
	conflictRetries = 5
)

// terminationNote is the annotation's content: enough to know later whose cordon this is, and to undo just what was changed.
type terminationNote struct {
	Hook          string    `json:"hook"`
	Began         time.Time `json:"began"`
	Cordoned      time.Time `json:"cordoned"`
	Unschedulable bool      `json:"unschedulable,omitempty"` // it was we who set it
	Excluded      bool      `json:"excluded,omitempty"`      // the label: likewise
}

// Cordon closes the node to new pods and to load balancers, in one patch, and notes on it what was changed. A node that was
// closed for this termination before is left as it is: the time of then is returned.
func (c *Client) Cordon(ctx context.Context, node drain.Node, hook string, began time.Time) (cordoned time.Time, err error) {
	err = c.changeNode(ctx, node.Name, func(current *corev1.Node) map[string]any {
		earlier, marked := terminationNoteOf(current)
		if marked && earlier.Began.Equal(began) && current.Spec.Unschedulable {
			cordoned = earlier.Cordoned
			return nil
		}
		m := newTerminationNote(current, earlier, hook, began)
		cordoned = m.Cordoned
		return m.cordonPatch()
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("cordon node %s: %w", node.Name, err)
	}
	return cordoned, nil
}

// Restore implements termination.Surroundings.
func (c *Client) Restore(ctx context.Context, node drain.Node, hook string) (ours bool, err error) {
	err = c.changeNode(ctx, node.Name, func(current *corev1.Node) map[string]any {
		m, marked := terminationNoteOf(current)
		ours = !marked || m.Hook == hook
		if !ours || !marked && !hasTerminatingTaint(current) {
			return nil
		}
		return m.restorePatch(current)
	})
	if err != nil {
		return false, fmt.Errorf("restore node %s: %w", node.Name, err)
	}
	return ours, nil
}

// changeNode makes a merge patch out of what the node is now, and applies it to that and nothing later; no patch, no request.
func (c *Client) changeNode(ctx context.Context, name string, patch func(*corev1.Node) map[string]any) error {
	current, err := c.getNode(ctx, name)
	if err != nil {
		return err
	}
	return c.changeNodeFrom(ctx, current, patch)
}

// changeNodeFrom does so with a node as it was last seen.
func (c *Client) changeNodeFrom(ctx context.Context, current *corev1.Node, patch func(*corev1.Node) map[string]any) error {
	for attempt := 0; ; attempt++ {
		wanted := patch(current)
		if wanted == nil {
			return nil
		}
		err := c.patchNode(ctx, current, wanted)
		if !apierrors.IsConflict(err) || attempt == conflictRetries {
			return err
		}
		if current, err = c.getNode(ctx, current.Name); err != nil {
			return err
		}
	}
}

func (c *Client) patchNode(ctx context.Context, node *corev1.Node, wanted map[string]any) error {
	metadata, _ := wanted["metadata"].(map[string]any)
	if metadata == nil {
		metadata = map[string]any{}
		wanted["metadata"] = metadata
	}
	metadata["resourceVersion"] = node.ResourceVersion
	body, err := json.Marshal(wanted)
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	return c.core.Patch(types.MergePatchType).Resource("nodes").Name(node.Name).Body(body).Timeout(callTimeout).Do(ctx).Error()
}

func terminationNoteOf(node *corev1.Node) (terminationNote, bool) {
	var m terminationNote
	text, marked := node.Annotations[terminationAnnotation]
	if !marked || json.Unmarshal([]byte(text), &m) != nil {
		return terminationNote{}, false
	}
	return m, true
}

// newTerminationNote keeps what an earlier mark says that we changed: seen from now, it looks as if it had been so before.
func newTerminationNote(node *corev1.Node, earlier terminationNote, hook string, began time.Time) terminationNote {
	_, excluded := node.Labels[excludeLabel]
	return terminationNote{
		Hook: hook, Began: began, Cordoned: time.Now().UTC(),
		Unschedulable: earlier.Unschedulable || !node.Spec.Unschedulable,
		Excluded:      earlier.Excluded || !excluded,
	}
}

func (m terminationNote) cordonPatch() map[string]any {
	note, _ := json.Marshal(m) // of strings, times and booleans: it cannot fail
	metadata := map[string]any{"annotations": map[string]any{terminationAnnotation: string(note)}}
	if m.Excluded {
		metadata["labels"] = map[string]any{excludeLabel: excludeValue}
	}
	return map[string]any{"metadata": metadata, "spec": map[string]any{"unschedulable": true}}
}

// restorePatch takes back what the mark says, and the mark itself. A null deletes a key
// (https://www.rfc-editor.org/rfc/rfc7386).
func (m terminationNote) restorePatch(node *corev1.Node) map[string]any {
	metadata := map[string]any{"annotations": map[string]any{terminationAnnotation: nil}}
	if m.Excluded && node.Labels[excludeLabel] == excludeValue {
		metadata["labels"] = map[string]any{excludeLabel: nil}
	}
	spec := map[string]any{}
	if m.Unschedulable {
		spec["unschedulable"] = nil
	}
	if hasTerminatingTaint(node) {
		spec["taints"] = slices.DeleteFunc(slices.Clone(node.Spec.Taints), isTerminatingTaint)
	}
	return map[string]any{"metadata": metadata, "spec": spec}
}
