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
func (c *watchedNode) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	pod, here := c.pod(ref)
	if !here {
		return nil
	}
	if blocked := c.pdbs.reserve(pod, o.DryRun); blocked != nil {
		return blocked
	}
	err := c.mapEvictError(ref, c.evict(ctx, ref, o))
	var blocked *drain.Blocked
	if !errors.As(err, &blocked) {
		return err
	}
	c.pdbs.awaitNamespace(ctx, ref.Namespace)
	return c.pdbs.explain(pod, blocked)
}

// evict posts the eviction. client-go's own retries are off: it would sleep through a Retry-After of the server's ten times
// over, deaf to the budget's change that we wait for.
func (c *watchedNode) evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	eviction := &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name},
		DeleteOptions: deleteOptions(ref, o),
	}
	return c.core.Post().Namespace(ref.Namespace).Resource("pods").Name(ref.Name).SubResource("eviction").
		Body(eviction).MaxRetries(0).Timeout(callTimeout).Do(ctx).Error()
}

// Delete implements drain.Cluster. A deletion asks no budget.
func (c *watchedNode) Delete(ctx context.Context, ref drain.Ref, grace time.Duration) error {
	err := c.core.Delete().Namespace(ref.Namespace).Resource("pods").Name(ref.Name).
		Body(deleteOptions(ref, drain.EvictOptions{Grace: grace})).MaxRetries(0).Timeout(callTimeout).Do(ctx).Error()
	switch {
	case err == nil, apierrors.IsNotFound(err), apierrors.IsConflict(err) && c.isGone(ref):
		return nil
	case apierrors.IsTooManyRequests(err):
		return throttled(err)
	}
	return fmt.Errorf("delete %s: %w", ref, err)
}

// deleteOptions: a dry run is checked like any other eviction, and takes nothing from the budget
// (https://kubernetes.io/docs/reference/using-api/api-concepts/#dry-run). A grace period is in whole seconds; zero would be none
// at all.
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

// mapEvictError puts the server's answer to an eviction in the domain's terms
// (https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/).
func (c *watchedNode) mapEvictError(ref drain.Ref, err error) error {
	switch {
	case err == nil, apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err) && c.isGone(ref):
		return nil // another pod has the name by now
	case apierrors.IsTooManyRequests(err):
		return mapTooManyRequests(ref, err)
	case apierrors.IsInternalError(err) && strings.Contains(err.Error(), "more than one PodDisruptionBudget"):
		return &drain.Blocked{Reason: multiplePDBs}
	}
	return fmt.Errorf("evict %s: %w", ref, err)
}

// multiplePDBs: the eviction API refuses such pods outright, with an internal error that only its text tells from others.
const multiplePDBs = "more than one disruption budget: the eviction API refuses such pods until all but one are changed"

func (c *watchedNode) isGone(ref drain.Ref) bool {
	_, here := c.pod(ref)
	return !here
}

// mapTooManyRequests tells a budget's 429 from an overloaded server's: the budget's names itself as the cause.
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

// pdbNamePattern: the server names the budget nowhere but in the cause's text.
var pdbNamePattern = regexp.MustCompile(`^The disruption budget (\S+) `)

func pdbNamesIn(namespace, message string) []string {
	if found := pdbNamePattern.FindStringSubmatch(message); found != nil {
		return []string{namespace + "/" + found[1]}
	}
	return nil
}
