package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

const (
	// terminationAnnotation tells people for which termination a node was closed, and what was changed. Others can change it. So it is
	// read only where no Lease tells, and then only which changes are ours: who forges that can have this node opened, and nothing more.
	terminationAnnotation = "quiesce/termination"
	// excludeLabel takes a node out of external load balancers
	// (https://kubernetes.io/docs/reference/labels-annotations-taints/#node-kubernetes-io-exclude-from-external-load-balancers).
	excludeLabel = corev1.LabelNodeExcludeBalancers
	// excludeValue tells the label of quiesce from others. The label excludes the node whatever its value is.
	excludeValue = "quiesce"
)

// terminationNote is the text of terminationAnnotation.
type terminationNote struct {
	Hook     string              `json:"hook,omitempty"`
	Trigger  termination.Trigger `json:"trigger,omitempty"`
	Began    time.Time           `json:"began"`
	Cordoned time.Time           `json:"cordoned"`
	// What quiesce changed.
	Unschedulable bool `json:"unschedulable,omitempty"`
	Excluded      bool `json:"excluded,omitempty"`
}

// notedOn returns what the annotation says that this termination changed on the node: an invocation that had no Lease. The rest of it is
// not believed.
func (c *closingNode) notedOn(current *corev1.Node) (noted terminationNote) {
	text := current.Annotations[terminationAnnotation]
	if c.Earlier != nil || json.Unmarshal([]byte(text), &noted) != nil {
		return terminationNote{}
	}
	if of := (termination.ClosedNode{Hook: noted.Hook, Trigger: noted.Trigger, CordonedAt: noted.Cordoned}); !of.IsOf(c.Hook, c.Trigger, c.Began) {
		return terminationNote{}
	}
	return noted
}

// closingNode computes what a closing changes on a node.
type closingNode struct {
	termination.Closing
	node    termination.ClosedNode
	earlier termination.ClosedNode // zero: it was not closed before
	saved   termination.ClosedNode // as last saved
}

// newClosing returns a closing as of now. A node that was opened meanwhile is closed again as of now, too: the pods that came to the open
// node are like those before.
func newClosing(node drain.Node, c termination.Closing) *closingNode {
	closing := &closingNode{Closing: c, node: termination.ClosedNode{
		Name: node.Name, UID: node.UID, Hook: c.Hook, Trigger: c.Trigger, Began: c.Began, CordonedAt: time.Now().UTC(),
	}}
	if c.Earlier == nil || c.Earlier.UID != node.UID {
		return closing
	}
	closing.earlier, closing.saved = *c.Earlier, *c.Earlier
	if c.Earlier.IsOf(c.Hook, c.Trigger, c.Began) {
		closing.node.KeptOpen = c.Earlier.KeptOpen
	}
	return closing
}

// isDone reports whether the node is closed for this termination already. Then it was closed when it was closed before.
func (c *closingNode) isDone(current *corev1.Node) bool {
	done := c.earlier.UID != "" && c.earlier.IsOf(c.Hook, c.Trigger, c.Began) && current.Spec.Unschedulable
	if done {
		c.node = c.earlier
	}
	return done
}

// patch computes what is to be changed on the node as it is, and returns the merge patch for it. What was changed earlier stays
// ours: the node's present state no longer shows that quiesce made it.
func (c *closingNode) patch(current *corev1.Node) map[string]any {
	_, excluded := current.Labels[excludeLabel]
	noted := c.notedOn(current)
	c.node.UID = string(current.UID)
	c.node.Unschedulable = c.earlier.Unschedulable || noted.Unschedulable || !current.Spec.Unschedulable
	c.node.Excluded = c.earlier.Excluded || noted.Excluded || !excluded
	text, _ := json.Marshal(terminationNote{ // strings, times and booleans: this cannot fail
		c.Hook, c.Trigger, c.Began, c.node.CordonedAt, c.node.Unschedulable, c.node.Excluded,
	})
	metadata := map[string]any{"annotations": map[string]any{terminationAnnotation: string(text)}}
	patch := map[string]any{"metadata": metadata}
	if !excluded {
		metadata["labels"] = map[string]any{excludeLabel: excludeValue}
	}
	if !current.Spec.Unschedulable {
		patch["spec"] = map[string]any{"unschedulable": true}
	}
	return patch
}

// save keeps the changes before they are made, unless they are kept already.
func (c *closingNode) save(ctx context.Context) error {
	if c.Save == nil || c.isSaved() {
		return nil
	}
	if err := c.Save(ctx, c.node); err != nil {
		return fmt.Errorf("save what is changed: %w", err)
	}
	c.saved = c.node
	return nil
}

// retract takes back what was saved, and then denied. Else a later cordon, by a person, would count as ours.
func (c *closingNode) retract(ctx context.Context) error {
	c.node.Unschedulable, c.node.Excluded = c.earlier.Unschedulable, c.earlier.Excluded
	return c.save(ctx)
}

// isSaved reports whether what is kept says the same. Times that were read from a text differ in their form.
func (c *closingNode) isSaved() bool {
	kept := c.saved
	if !kept.Began.Equal(c.node.Began) || !kept.CordonedAt.Equal(c.node.CordonedAt) {
		return false
	}
	kept.Began, kept.CordonedAt = c.node.Began, c.node.CordonedAt
	return kept == c.node
}

// restorePatch returns the merge patch that undoes the changes that were saved, and removes our annotation and our taint; nil if
// there is nothing to undo. A null deletes a key (https://www.rfc-editor.org/rfc/rfc7386).
func restorePatch(current *corev1.Node, closed *termination.ClosedNode) map[string]any {
	metadata, spec := map[string]any{}, map[string]any{}
	if _, annotated := current.Annotations[terminationAnnotation]; annotated {
		metadata["annotations"] = map[string]any{terminationAnnotation: nil}
	}
	if closed != nil && closed.Excluded && current.Labels[excludeLabel] == excludeValue {
		metadata["labels"] = map[string]any{excludeLabel: nil}
	}
	if closed != nil && closed.Unschedulable && current.Spec.Unschedulable {
		spec["unschedulable"] = nil
	}
	if hasTerminatingTaint(current) {
		spec["taints"] = slices.DeleteFunc(slices.Clone(current.Spec.Taints), isTerminatingTaint)
	}
	if len(metadata) == 0 && len(spec) == 0 {
		return nil
	}
	patch := map[string]any{"metadata": metadata}
	if len(spec) > 0 {
		patch["spec"] = spec
	}
	return patch
}
