package kube

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
)

// Evict implements drain.Cluster.
func (w *watchedNode) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	pod, here := w.pod(ref)
	if !here {
		return nil
	}
	if blocked := w.pdbs.reserve(pod, o.DryRun); blocked != nil {
		return blocked
	}
	err := w.mapEvictError(ref, w.evict(ctx, ref, o))
	var blocked *drain.Blocked
	if !errors.As(err, &blocked) {
		return err
	}
	w.pdbs.awaitNamespace(ctx, ref.Namespace)
	return w.pdbs.explain(pod, blocked)
}

// evict posts the eviction. client-go's own retries are off: it would sleep up to ten times for a Retry-After, and miss the
// change of the PDB that the drain waits for.
func (w *watchedNode) evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	eviction := &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name},
		DeleteOptions: deleteOptions(ref, o),
	}
	return w.core.Post().Namespace(ref.Namespace).Resource("pods").Name(ref.Name).SubResource("eviction").
		Body(eviction).MaxRetries(0).Timeout(callTimeout).Do(ctx).Error()
}

// Delete implements drain.Cluster. PDBs do not apply to a deletion.
func (w *watchedNode) Delete(ctx context.Context, ref drain.Ref, grace time.Duration) error {
	err := w.core.Delete().Namespace(ref.Namespace).Resource("pods").Name(ref.Name).
		Body(deleteOptions(ref, drain.EvictOptions{Grace: grace})).MaxRetries(0).Timeout(callTimeout).Do(ctx).Error()
	switch {
	case err == nil, apierrors.IsNotFound(err), apierrors.IsConflict(err) && w.isGone(ref):
		return nil
	case apierrors.IsTooManyRequests(err):
		return throttled(err)
	}
	return fmt.Errorf("delete %s: %w", ref, err)
}

// deleteOptions returns options with the UID as a precondition. The server checks a dry run like any other eviction, and
// takes nothing from the PDB for it (https://kubernetes.io/docs/reference/using-api/api-concepts/#dry-run). A grace period
// is in whole seconds, rounded up: zero seconds would mean SIGKILL at once.
func deleteOptions(ref drain.Ref, o drain.EvictOptions) *metav1.DeleteOptions {
	uid := types.UID(ref.UID)
	options := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
	if o.DryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	if o.Grace > 0 {
		seconds := int64(math.Ceil(o.Grace.Seconds()))
		options.GracePeriodSeconds = &seconds
	}
	return options
}

// mapEvictError returns the server's answer to an eviction in the domain's terms
// (https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/).
func (w *watchedNode) mapEvictError(ref drain.Ref, err error) error {
	switch {
	case err == nil, apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err) && w.isGone(ref):
		return nil // another pod has the name now
	case apierrors.IsTooManyRequests(err):
		return mapTooManyRequests(ref, err)
	case apierrors.IsInternalError(err) && strings.Contains(err.Error(), "more than one PodDisruptionBudget"):
		return &drain.Blocked{Reason: multiplePDBs}
	}
	return fmt.Errorf("evict %s: %w", ref, err)
}

// multiplePDBs is the reason for a pod that more than one PDB selects. The eviction API answers an internal error, which
// only its text tells from others.
const multiplePDBs = "more than one PodDisruptionBudget selects the pod: the eviction API refuses it until only one does"

// isGone reports whether the pod with the UID of ref is no longer on the node.
func (w *watchedNode) isGone(ref drain.Ref) bool {
	_, here := w.pod(ref)
	return !here
}

// mapTooManyRequests returns *drain.Blocked for a PDB's 429, which has a cause of its own, and *drain.Throttled for an
// overloaded server's.
func mapTooManyRequests(ref drain.Ref, err error) error {
	if cause, ok := apierrors.StatusCause(err, policyv1.DisruptionBudgetCause); ok {
		return &drain.Blocked{PDBs: pdbNamesIn(ref.Namespace, cause.Message), Reason: cause.Message}
	}
	return throttled(err)
}

func throttled(err error) error {
	seconds, _ := apierrors.SuggestsClientDelay(err)
	return &drain.Throttled{After: time.Duration(seconds) * time.Second}
}

// pdbNamePattern finds the PDB's name, which the server gives only in the text of the cause.
var pdbNamePattern = regexp.MustCompile(`^The disruption budget (\S+) `)

func pdbNamesIn(namespace, message string) []string {
	if found := pdbNamePattern.FindStringSubmatch(message); found != nil {
		return []string{namespace + "/" + found[1]}
	}
	return nil
}
