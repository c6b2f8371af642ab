package kube

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
)

var pods = schema.GroupResource{Resource: "pods"}

func TestAnswersToAnEvictionInTheDomainsTerms(t *testing.T) {
	ref := drain.Ref{Namespace: "db", Name: "pgbouncer-0", UID: "1"}
	here := &cluster{pods: map[types.NamespacedName]drain.Pod{{Namespace: "db", Name: "pgbouncer-0"}: {Ref: ref}}}
	reborn := &cluster{pods: map[types.NamespacedName]drain.Pod{
		{Namespace: "db", Name: "pgbouncer-0"}: {Ref: drain.Ref{Namespace: "db", Name: "pgbouncer-0", UID: "2"}},
	}}
	budget := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
	budget.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: policyv1.DisruptionBudgetCause, Message: "The disruption budget pgbouncer needs 2 healthy pods and has 2 currently",
	}}
	overloaded := apierrors.NewTooManyRequests("too many requests", 3)
	several := apierrors.NewInternalError(errors.New("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."))

	require.NoError(t, here.judge(ref, nil))
	require.NoError(t, here.judge(ref, apierrors.NewNotFound(pods, ref.Name)))
	conflict := apierrors.NewConflict(pods, ref.Name, errors.New("the UID in the precondition does not match"))
	require.NoError(t, reborn.judge(ref, conflict), "the pod is gone; another has its name")
	require.ErrorContains(t, here.judge(ref, conflict), "evict db/pgbouncer-0")

	var blocked *drain.Blocked
	require.ErrorAs(t, here.judge(ref, budget), &blocked)
	require.Equal(t, []string{"db/pgbouncer"}, blocked.Budgets)
	require.ErrorAs(t, here.judge(ref, several), &blocked)

	var throttled *drain.Throttled
	require.ErrorAs(t, here.judge(ref, overloaded), &throttled, "a 429 without a budget's cause is the server's own")
	require.Equal(t, 3*time.Second, throttled.After)

	denied := apierrors.NewGenericServerResponse(http.StatusForbidden, "create", pods, ref.Name, "admission webhook denied", 0, true)
	err := here.judge(ref, denied)
	require.ErrorContains(t, err, "evict db/pgbouncer-0")
	require.NotErrorAs(t, err, &blocked)
}
