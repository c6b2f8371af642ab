package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
)

const (
	// conditionTimeout bounds the request that precedes a deletion. A server that is well needs milliseconds. Longer would take
	// the deletion's own time.
	conditionTimeout = 2 * time.Second
	// maxRetryAfter bounds a Retry-After. The API server asks for seconds; a drain has minutes.
	maxRetryAfter = time.Minute
)

// conditionReason is the reason of the condition on a pod that a drain deletes.
const conditionReason = "DeletionByQuiesce"

// Evict implements drain.Cluster.
func (w *watchedNode) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	pod, here := w.pod(ref)
	if !here {
		return nil
	}
	if blocked := w.pdbs.reserve(pod, o.DryRun); blocked != nil {
		unasked := *blocked
		unasked.Unasked = true
		return &unasked
	}
	err := w.mapEvictError(ref, w.evict(ctx, ref, o))
	var blocked *drain.Blocked
	if errors.As(err, &blocked) {
		w.pdbs.awaitNamespace(ctx, ref.Namespace)
		return w.pdbs.explain(pod, blocked)
	}
	if err != nil && !o.DryRun {
		w.pdbs.release(pod)
	}
	return err
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

// Delete implements drain.Cluster. PDBs do not apply to a deletion. A running pod first gets the condition that an eviction
// would give it. That is tried once: without it, a Job may count the pod as failed, and nothing worse.
func (w *watchedNode) Delete(ctx context.Context, ref drain.Ref, grace time.Duration) error {
	if pod, here := w.pod(ref); here && !pod.Terminating() {
		_ = w.markDisrupted(ctx, ref)
	}
	err := w.core.Delete().Namespace(ref.Namespace).Resource("pods").Name(ref.Name).
		Body(deleteOptions(ref, drain.EvictOptions{Grace: grace})).MaxRetries(0).Timeout(callTimeout).Do(ctx).Error()
	return w.mapAnswer("delete", ref, err)
}

// markDisrupted sets the pod's condition DisruptionTarget, as an eviction does
// (https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions). The server merges conditions by
// type, so no other one changes, and it rejects the patch if another pod has the name.
func (w *watchedNode) markDisrupted(ctx context.Context, ref drain.Ref) error {
	condition := map[string]any{
		"type": corev1.DisruptionTarget, "status": corev1.ConditionTrue, "reason": conditionReason,
		"message":            "quiesce deletes the pod before its node is terminated",
		"lastTransitionTime": metav1.Now(),
	}
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": ref.UID}, "status": map[string]any{"conditions": []any{condition}},
	})
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	return w.core.Patch(types.StrategicMergePatchType).Namespace(ref.Namespace).Resource("pods").Name(ref.Name).SubResource("status").
		Body(body).MaxRetries(0).Timeout(conditionTimeout).Do(ctx).Error()
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
// (https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/). A webhook can give any answer, also a PDB's. So its
// denial is recognized first.
func (w *watchedNode) mapEvictError(ref drain.Ref, err error) error {
	if isDenial(err) {
		return w.mapAnswer("evict", ref, err)
	}
	cause, byPDB := apierrors.StatusCause(err, policyv1.DisruptionBudgetCause)
	switch {
	case byPDB && apierrors.IsTooManyRequests(err):
		reason := drain.Short(cause.Message)
		return &drain.Blocked{PDBs: pdbNamesIn(ref.Namespace, reason), Reason: reason}
	case apierrors.IsInternalError(err) && severalPattern.MatchString(err.Error()):
		return &drain.Blocked{Reason: multiplePDBs, Never: true}
	}
	return w.mapAnswer("evict", ref, err)
}

// mapAnswer returns the server's answer to an eviction or a deletion in the domain's terms, PDBs apart.
func (w *watchedNode) mapAnswer(verb string, ref drain.Ref, err error) error {
	switch {
	case err == nil, apierrors.IsNotFound(err) && !isDenial(err):
		return nil
	case isDenial(err):
		return &drain.Refused{Reason: drain.Short(err.Error())}
	case apierrors.IsConflict(err) && w.isGone(ref):
		return nil // another pod has the name now
	case apierrors.IsTooManyRequests(err):
		return throttled(err)
	}
	return fmt.Errorf("%s %s: %w", verb, ref, bounded(err))
}

// multiplePDBs is the reason for a pod that more than one PDB selects. The eviction API answers an internal error, which
// only its text tells from others.
const multiplePDBs = "more than one PodDisruptionBudget selects the pod: the eviction API refuses it until only one does"

var severalPattern = regexp.MustCompile(`^(Internal error occurred: )?This pod has more than one PodDisruptionBudget`)

// denialPattern finds the denial of an admission webhook or policy. Its code is whatever its author chose; the API server puts
// these words before the author's own, behind at most the name of the object
// (https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#response and
// https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/).
var denialPattern = regexp.MustCompile(
	`^([a-z0-9./ ]*"[^"]*" is (forbidden|invalid): )?(admission webhook "[^"]*" denied|ValidatingAdmissionPolicy '[^']*' with binding '[^']*' denied)`)

func isDenial(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && denialPattern.MatchString(status.Status().Message)
}

// isGone reports whether the pod with the UID of ref is no longer on the node.
func (w *watchedNode) isGone(ref drain.Ref) bool {
	_, here := w.pod(ref)
	return !here
}

func throttled(err error) error {
	seconds, _ := apierrors.SuggestsClientDelay(err)
	return &drain.Throttled{After: min(time.Duration(max(seconds, 0))*time.Second, maxRetryAfter)}
}

// pdbNamePattern finds the PDB's name, which the server gives only in the text of the cause.
var pdbNamePattern = regexp.MustCompile(`^The disruption budget (\S+) `)

func pdbNamesIn(namespace, message string) []string {
	if found := pdbNamePattern.FindStringSubmatch(message); found != nil {
		return []string{namespace + "/" + found[1]}
	}
	return nil
}
