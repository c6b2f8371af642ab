package escort

import (
	"context"
	"errors"
	"time"

	"quiesce/internal/drain"
)

// inspectTimeout bounds the look at a pod whose eviction was not answered. Clients of a paused pod wait for it too.
const inspectTimeout = 500 * time.Millisecond

// Refusal is the answer to an eviction that was not accepted. An escort returns Answer to the drain as it is.
type Refusal struct{ Answer error }

// Error returns the answer's text.
func (r Refusal) Error() string { return r.Answer.Error() }

// Inspector looks at pods.
type Inspector interface {
	// Inspect returns the pod as it is now. It returns nil if the pod is gone, or another pod has its name.
	Inspect(ctx context.Context, ref drain.Ref) (*Pod, error)
}

// Evict evicts the request's pod, and returns a Refusal if that is not accepted. A request without an answer may have been accepted:
// then the pod decides. Without a cluster to ask, it counts as not accepted.
func Evict(ctx context.Context, cluster Inspector, request drain.EscortRequest, o drain.EvictOptions) error {
	err := request.Evict(ctx, o)
	if err != nil && (o.DryRun || isAnswer(err) || !IsTerminating(ctx, cluster, request.Ref)) {
		return Refusal{err}
	}
	return nil
}

// isAnswer reports whether the error is the API server's own answer, and no eviction was accepted.
func isAnswer(err error) bool {
	_, blocked := errors.AsType[*drain.Blocked](err)
	_, refused := errors.AsType[*drain.Refused](err)
	_, throttled := errors.AsType[*drain.Throttled](err)
	return blocked || refused || throttled
}

// IsTerminating reports whether the pod is known to be terminating or gone. It asks even if ctx has ended.
func IsTerminating(ctx context.Context, cluster Inspector, ref drain.Ref) bool {
	if cluster == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), inspectTimeout)
	defer cancel()
	pod, err := cluster.Inspect(ctx, ref)
	return err == nil && (pod == nil || !pod.Deleted.IsZero())
}
