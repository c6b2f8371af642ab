package kube

import (
	"encoding/json"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	// terminationAnnotation holds the termination note of a node.
	terminationAnnotation = "quiesce/termination"
	// excludeLabel takes a node out of external load balancers
	// (https://kubernetes.io/docs/reference/labels-annotations-taints/#node-kubernetes-io-exclude-from-external-load-balancers).
	excludeLabel = corev1.LabelNodeExcludeBalancers
	// excludeValue tells the label of quiesce from others. The label excludes the node whatever its value is.
	excludeValue = "quiesce"
)

// terminationNote says for which termination a node was cordoned, and what quiesce changed on it, so that only that is undone.
type terminationNote struct {
	Hook          string    `json:"hook"`
	Began         time.Time `json:"began"`
	Cordoned      time.Time `json:"cordoned"`
	Unschedulable bool      `json:"unschedulable,omitempty"` // quiesce set spec.unschedulable
	Excluded      bool      `json:"excluded,omitempty"`      // quiesce set excludeLabel
}

// terminationNoteOf returns the node's note; false if it has none that can be read.
func terminationNoteOf(node *corev1.Node) (terminationNote, bool) {
	var note terminationNote
	text, exists := node.Annotations[terminationAnnotation]
	if !exists || json.Unmarshal([]byte(text), &note) != nil {
		return terminationNote{}, false
	}
	return note, true
}

// newTerminationNote returns a note that keeps the changes of an earlier one: the node's present state no longer shows that
// quiesce made them.
func newTerminationNote(node *corev1.Node, earlier terminationNote, hook string, began time.Time) terminationNote {
	_, excluded := node.Labels[excludeLabel]
	return terminationNote{
		Hook: hook, Began: began, Cordoned: time.Now().UTC(),
		Unschedulable: earlier.Unschedulable || !node.Spec.Unschedulable,
		Excluded:      earlier.Excluded || !excluded,
	}
}

// cordonPatch returns the merge patch that cordons the node and writes the note.
func (n terminationNote) cordonPatch() map[string]any {
	text, _ := json.Marshal(n) // strings, times and booleans: this cannot fail
	metadata := map[string]any{"annotations": map[string]any{terminationAnnotation: string(text)}}
	if n.Excluded {
		metadata["labels"] = map[string]any{excludeLabel: excludeValue}
	}
	return map[string]any{"metadata": metadata, "spec": map[string]any{"unschedulable": true}}
}

// restorePatch returns the merge patch that undoes the changes in the note, and removes the note and the taint. A null
// deletes a key (https://www.rfc-editor.org/rfc/rfc7386).
func (n terminationNote) restorePatch(node *corev1.Node) map[string]any {
	metadata := map[string]any{"annotations": map[string]any{terminationAnnotation: nil}}
	if n.Excluded && node.Labels[excludeLabel] == excludeValue {
		metadata["labels"] = map[string]any{excludeLabel: nil}
	}
	spec := map[string]any{}
	if n.Unschedulable {
		spec["unschedulable"] = nil
	}
	if hasTerminatingTaint(node) {
		spec["taints"] = slices.DeleteFunc(slices.Clone(node.Spec.Taints), isTerminatingTaint)
	}
	return map[string]any{"metadata": metadata, "spec": spec}
}
