package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
)

// ownStage is a stage for a test whose changes would reach the other scenes.
func ownStage(t *testing.T) *env.Env {
	t.Helper()
	play(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	root, err := env.Root()
	require.NoError(t, err)
	own, err := env.Start(ctx, env.Options{Root: root})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, own.Stop()) })
	return own
}

// permission is one verb on one resource.
type permission struct{ group, resource, verb string }

func (p permission) String() string { return p.verb + " " + p.resource }

// fallbacks are permissions that no run here needs: this server offers the list as the beginning of the watch, and older ones
// do not (https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-lists).
var fallbacks = []permission{
	{"", "pods", "list"}, {"policy", "poddisruptionbudgets", "list"}, {"storage.k8s.io", "volumeattachments", "list"},
}

// need is a run that needs a permission, and what it ends in when that is taken away: a function error that names it or, where
// it can do without, its status.
type need struct {
	prepare func(*scene)
	status  termination.Status    // empty: a function error
	run     func(s *scene) report // nil: a drain
}

var needs = map[permission]need{
	{"", "nodes", "get"}:                             {},
	{"", "nodes", "list"}:                            {prepare: (*scene).renameInstance},
	{"", "nodes", "patch"}:                           {},
	{"", "nodes", "watch"}:                           {status: termination.StatusDrained},
	{"", "pods", "watch"}:                            {},
	{"", "pods", "delete"}:                           {prepare: (*scene).forceAll, status: termination.StatusPartial},
	{"", "pods/eviction", "create"}:                  {status: termination.StatusPartial},
	{"policy", "poddisruptionbudgets", "watch"}:      {prepare: (*scene).blockAll, status: termination.StatusPartial},
	{"", "persistentvolumeclaims", "get"}:            {prepare: (*scene).giveDisk, status: termination.StatusDrained},
	{"storage.k8s.io", "volumeattachments", "watch"}: {prepare: (*scene).giveDisk, status: termination.StatusDrained},
	{"coordination.k8s.io", "leases", "create"}:      {},
	{"coordination.k8s.io", "leases", "get"}:         {prepare: (*scene).leaveLease},
	{"coordination.k8s.io", "leases", "list"}:        {status: termination.StatusSwept, run: (*scene).sweepLost},
	{"coordination.k8s.io", "leases", "update"}:      {prepare: (*scene).leaveLease},
	{"coordination.k8s.io", "leases", "delete"}:      {status: termination.StatusDrained},
	{"", "events", "create"}:                         {status: termination.StatusDrained},
}

// What the function may do is what somebody who steals its role may do: every permission is one that a run is seen to need,
// and one that is missing is named, so that it can be granted.
func TestTheFunctionsIdentity(t *testing.T) {
	own := ownStage(t)
	for _, p := range permissionsOf(t, own) {
		if !slices.Contains(fallbacks, p) {
			t.Run("needs to "+p.String(), func(t *testing.T) { provesNeed(t, own, p) })
		}
	}
	t.Run("is proven anew when its token is refused", func(t *testing.T) { outlivesItsToken(t, own) })
}

func provesNeed(t *testing.T, own *env.Env, p permission) {
	run, known := needs[p]
	require.True(t, known, "nothing shows that the function needs it")
	s := setSceneOn(t, own, 2, "drain: {maxDuration: 12s, completionReserve: 1s, onDeadline: keep, nodeJoinTimeout: 1s, volumeDetachTimeout: 1s}")
	s.deploy("web", 1)
	s.instances = []env.Instance{s.hostOf("web")}
	if run.prepare != nil {
		run.prepare(s)
	}
	s.without(p)
	if run.run == nil {
		run.run = func(s *scene) report { return s.drain(s.instances[0]) }
	}
	report := run.run(s)

	if run.status == "" {
		require.Equal(t, "Failed", report.ErrorType)
		require.Contains(t, report.ErrorMessage, "forbidden")
		require.Contains(t, report.ErrorMessage, fmt.Sprintf("cannot %s resource %q", p.verb, p.resource))
	} else {
		require.Equal(t, run.status, report.Status, report.ErrorMessage)
		require.Contains(t, s.function.Output(), fmt.Sprintf("cannot %s resource \\\"%s\\\"", p.verb, p.resource))
	}
	require.True(t, slices.ContainsFunc(s.requests(s.function), func(r lab.Request) bool { return r.Denied }))
}

// tokenMemory is for how long the API server believes in a token that it has seen: 10 s, whatever the webhook's own cache is set to
// (TokenSuccessCacheTTL of k8s.io/kubernetes/pkg/kubeapiserver/options), and a little more.
const tokenMemory = 11 * time.Second

// A session can end, or a key be rotated, in the middle of a drain of half an hour. The pods that are left must not be left
// for that.
func outlivesItsToken(t *testing.T, own *env.Env) {
	s := setSceneOn(t, own, 1)
	node := s.instances[0]
	s.deploy("slow", 1)
	s.budget("slow", "slow", 0)
	end := s.begin(node)
	s.logs("eviction blocked") // the drain is under way, and goes on until somebody lets it end
	asked := s.identityCalls()
	heal := s.AWS.Fail("sts", "GetCallerIdentity", awstest.Fault{
		Times: 1, Code: http.StatusForbidden, ErrorCode: "ExpiredToken", Message: "The security token included in the request is expired",
	})
	t.Cleanup(heal)
	s.until("the API server has forgotten the token", func() (bool, error) {
		return time.Since(asked[len(asked)-1].At) > tokenMemory, nil
	})
	s.bare("late", pinned(node))
	s.gone("late")
	s.removeBudget("slow")

	report := end()
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.Len(t, answered(s.evictions("late"), http.StatusCreated), 1)
	calls := s.identityCalls()[len(asked):]
	require.GreaterOrEqual(t, len(calls), 2)
	require.Equal(t, []int{http.StatusForbidden, http.StatusOK}, []int{calls[0].Code, calls[1].Code})
	require.NotEqual(t, calls[0].Params.Get("X-Amz-Signature"), calls[1].Params.Get("X-Amz-Signature"), "signed anew")
	require.NotEqual(t, calls[0].Params.Get("X-Amz-Date"), calls[1].Params.Get("X-Amz-Date"))
}

// A token is made for one cluster. Were one for a test cluster good for production, so would be whoever runs the tests.
func TestATokenForAnotherClusterIsRefused(t *testing.T) {
	s := setScene(t, 1)
	s.AWS.AddCluster(s.group, s.Lab.Endpoint(), s.Lab.CA())
	s.isRefused("Unauthorized", "CLUSTER_NAME="+s.group)
}

// A key that was taken away must end what it could do, before Kubernetes is asked for anything.
func TestAnUnknownAccessKeyIsRefused(t *testing.T) {
	s := setScene(t, 1)
	s.isRefused("InvalidClientTokenId", "AWS_ACCESS_KEY_ID=ASIAUNKNOWNUNKNOWN00")
}

// isRefused drains with a function in this environment, which must fail with these words and touch nothing.
func (s *scene) isRefused(words, environment string) {
	s.Helper()
	node := s.instances[0]
	s.podOn(node, "web")
	function := s.start("autoScalingGroups: [\""+s.group+"\"]\nmode: drain", environment)
	report := s.invokeOn(function, s.terminate(node).Body)
	require.Equal(s, "Failed", report.ErrorType)
	require.Contains(s, report.ErrorMessage, words)
	require.Empty(s, s.requests(function), "Kubernetes knows it as nobody")
	require.Empty(s, s.AWS.Completions(node.ID))
	require.False(s, s.node(node).Spec.Unschedulable)
	require.Nil(s, s.podsOn(node)[0].DeletionTimestamp)
}

// identityCalls are the questions who the scene's function is that STS was asked.
func (s *scene) identityCalls() []awstest.Call {
	s.Helper()
	return slices.DeleteFunc(s.AWS.CallsOf(s.function.Session), func(c awstest.Call) bool { return c.Service != "sts" })
}

// permissionsOf are all that the group quiesce has, but those for escorts, whose need internal/kube's own tests show.
func permissionsOf(t *testing.T, on *env.Env) (all []permission) {
	t.Helper()
	for _, rule := range rolesOf(t, on).rules() {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				all = append(all, permission{rule.APIGroups[0], resource, verb})
			}
		}
	}
	return all
}

// roles are those that are called quiesce: the rules of each by its namespace, which is empty for the cluster's.
type roles map[string][]rbacv1.PolicyRule

func rolesOf(t *testing.T, on *env.Env) roles {
	t.Helper()
	rbac := on.Lab.Client().RbacV1()
	cluster, err := rbac.ClusterRoles().Get(t.Context(), "quiesce", metav1.GetOptions{})
	require.NoError(t, err)
	namespaced, err := rbac.Roles("").List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=quiesce"})
	require.NoError(t, err)
	found := roles{"": cluster.Rules}
	for _, role := range namespaced.Items {
		found[role.Namespace] = role.Rules
	}
	return found
}

func (r roles) rules() []rbacv1.PolicyRule { return slices.Concat(slices.Collect(maps.Values(r))...) }

// without takes a permission away for the rest of the test.
func (s *scene) without(p permission) {
	s.Helper()
	all, fewer := rolesOf(s.T, s.Env), roles{}
	for namespace, rules := range all {
		fewer[namespace] = rulesWithout(rules, p)
	}
	s.grant(p, fewer, false)
	s.Cleanup(func() { s.grant(p, all, true) })
}

// grant gives the roles their rules, and waits until they are in force.
func (s *scene) grant(p permission, r roles, allowed bool) {
	s.Helper()
	rbac := s.Lab.Client().RbacV1()
	for namespace, rules := range r {
		var err error
		if called := (metav1.ObjectMeta{Name: "quiesce", Namespace: namespace}); namespace == "" {
			_, err = rbac.ClusterRoles().Update(s.ctx, &rbacv1.ClusterRole{ObjectMeta: called, Rules: rules}, metav1.UpdateOptions{})
		} else {
			_, err = rbac.Roles(namespace).Update(s.ctx, &rbacv1.Role{ObjectMeta: called, Rules: rules}, metav1.UpdateOptions{})
		}
		require.NoError(s, err)
	}
	s.until(fmt.Sprintf("allowed to %s: %t", p, allowed), func() (bool, error) {
		now, err := s.isAllowed(p)
		return err == nil && now == allowed, err
	})
}

func (s *scene) isAllowed(p permission) (bool, error) {
	review, err := s.Lab.Client().AuthorizationV1().SubjectAccessReviews().Create(s.ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: s.function.User, Groups: []string{"quiesce"}, ResourceAttributes: p.attributes(),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}

func (p permission) attributes() *authorizationv1.ResourceAttributes {
	a := &authorizationv1.ResourceAttributes{Group: p.group, Resource: p.resource, Verb: p.verb, Namespace: "quiesce"}
	switch p.resource {
	case "pods/eviction":
		a.Resource, a.Subresource = "pods", "eviction"
	case "events":
		a.Namespace = metav1.NamespaceDefault
	}
	return a
}

func rulesWithout(rules []rbacv1.PolicyRule, p permission) []rbacv1.PolicyRule {
	var kept []rbacv1.PolicyRule
	for _, rule := range rules {
		rule = *rule.DeepCopy()
		if slices.Contains(rule.APIGroups, p.group) && slices.Contains(rule.Resources, p.resource) {
			rule.Verbs = slices.DeleteFunc(rule.Verbs, func(verb string) bool { return verb == p.verb })
		}
		if len(rule.Verbs) > 0 {
			kept = append(kept, rule)
		}
	}
	return kept
}

// renameInstance has EC2 call the instance otherwise than its node, which must then be searched for.
func (s *scene) renameInstance() {
	s.Helper()
	s.instances = []env.Instance{s.unjoined(s.group, "custom")}
	s.join(s.instances[0], lab.Node{Name: "custom-" + s.group})
}

func (s *scene) blockAll() {
	s.Helper()
	s.budget("web", "web", 0)
}

// forceAll has the function delete what its budget does not let go.
func (s *scene) forceAll() {
	s.Helper()
	s.blockAll()
	s.function = s.newFunction("drain: {maxDuration: 12s, completionReserve: 1s, nodeJoinTimeout: 1s, volumeDetachTimeout: 1s}")
}

// giveDisk puts a pod with a disk on the node.
func (s *scene) giveDisk() {
	s.Helper()
	attachment := s.disk("data", s.instances[0])
	s.Cleanup(func() { s.finalize(attachment) })
	s.podOn(s.instances[0], "db", claiming("data"))
}

// sweepLost sweeps, while an instance waits whose event was lost.
func (s *scene) sweepLost() report {
	s.Helper()
	s.terminate(s.instances[0])
	return s.invoke(read(s.T, "sweep"))
}

// leaveLease leaves the Lease of an owner that crashed.
func (s *scene) leaveLease() {
	s.Helper()
	holder, long := "crashed", metav1.NewMicroTime(time.Now().Add(-time.Hour))
	_, err := s.Lab.Client().CoordinationV1().Leases("quiesce").Create(s.ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: s.instances[0].ID},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: &long},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
}
