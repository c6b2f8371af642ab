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
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
)

// ownSlots limits how many tests have an environment of their own at once. With more of them, timeouts of the product expire.
var ownSlots = make(chan struct{}, 2)

// ownEnv starts an environment for one test whose changes would affect other tests.
func ownEnv(t *testing.T) *env.Env {
	t.Helper()
	sharedEnv(t) // beside other tests
	ownSlots <- struct{}{}
	t.Cleanup(func() { <-ownSlots }) // after the environment has stopped
	return startOwnEnv(t)
}

// startOwnEnv starts an environment that the test stops.
func startOwnEnv(t *testing.T) *env.Env {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	own, err := startEnv(ctx, false)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, own.Stop()) })
	return own
}

// permission is one verb on one resource.
type permission struct{ group, resource, verb string }

func (p permission) String() string { return p.verb + " " + p.resource }

// fallbacks are permissions that no test here needs: this server sends the list at the start of the watch, and older servers do
// not (https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-lists).
var fallbacks = []permission{
	{"", "pods", "list"}, {"policy", "poddisruptionbudgets", "list"}, {"storage.k8s.io", "volumeattachments", "list"},
}

// permissionNeed is a run that needs a permission, and its result without it: a function error that names the permission or,
// where the run can continue without it, a status.
type permissionNeed struct {
	prepare func(*fixture)
	status  termination.Status      // empty: a function error
	run     func(s *fixture) report // nil: a drain
}

var needs = map[permission]permissionNeed{
	{"", "nodes", "get"}:                             {},
	{"", "nodes", "list"}:                            {prepare: (*fixture).renameInstance},
	{"", "nodes", "patch"}:                           {prepare: (*fixture).taintAsAdmin, status: termination.StatusDrained},
	{"", "nodes", "watch"}:                           {status: termination.StatusDrained},
	{"", "pods", "watch"}:                            {},
	{"", "pods", "delete"}:                           {prepare: (*fixture).forceDeletions, status: termination.StatusPartial},
	{"", "pods/eviction", "create"}:                  {status: termination.StatusPartial},
	{"policy", "poddisruptionbudgets", "watch"}:      {prepare: (*fixture).blockEvictions, status: termination.StatusPartial},
	{"", "persistentvolumeclaims", "get"}:            {prepare: (*fixture).addStayingDisk, status: termination.StatusDrained},
	{"storage.k8s.io", "volumeattachments", "watch"}: {prepare: (*fixture).addDisk, status: termination.StatusDrained},
	{"coordination.k8s.io", "leases", "create"}:      {status: termination.StatusDrained},
	{"coordination.k8s.io", "leases", "get"}:         {prepare: (*fixture).createExpiredLease, status: termination.StatusDrained},
	{"coordination.k8s.io", "leases", "list"}:        {status: termination.StatusSwept, run: (*fixture).sweepWithLostEvent},
	{"coordination.k8s.io", "leases", "update"}:      {prepare: (*fixture).createExpiredLease, status: termination.StatusDrained},
	{"coordination.k8s.io", "leases", "delete"}:      {status: termination.StatusSwept, run: (*fixture).sweepAfterEnd},
	{"", "events", "create"}:                         {status: termination.StatusDrained},
}

// A stolen role can do all that the function can do. So every permission must be needed by some run, and a missing one must be
// named, so that an operator can grant it.
func TestIdentity_EachPermission_Needed(t *testing.T) {
	own := ownEnv(t)
	for _, p := range permissionsOf(t, own) {
		if !slices.Contains(fallbacks, p) {
			t.Run("need to "+p.String(), func(t *testing.T) { requireNeeded(t, own, p) })
		}
	}
	t.Run("an expired token is replaced", func(t *testing.T) { drainWithExpiredToken(t, own) })
}

func requireNeeded(t *testing.T, own *env.Env, p permission) {
	run, known := needs[p]
	require.True(t, known, "nothing shows that the function needs it")
	s := newFixtureOn(t, own, 2, "drain: {maxDuration: 12s, completionReserve: 1s, onDeadline: keep, nodeJoinTimeout: 1s, volumeDetachTimeout: 5s}")
	s.deploy("web", 1)
	s.instances = []env.Instance{s.hostOf("web")}
	if run.prepare != nil {
		run.prepare(s)
	}
	s.without(p)
	if run.run == nil {
		run.run = func(s *fixture) report { return s.drain(s.instances[0]) }
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

// tokenCacheTTL is how long the API server accepts a token that it has verified: 10 s, whatever the TTL of the webhook's own
// cache (TokenSuccessCacheTTL of k8s.io/kubernetes/pkg/kubeapiserver/options), plus a margin.
const tokenCacheTTL = 11 * time.Second

// A session can end, or a key be rotated, in the middle of a drain of half an hour. The remaining pods must still be evicted.
func drainWithExpiredToken(t *testing.T, own *env.Env) {
	s := newFixtureOn(t, own, 1)
	node := s.instances[0]
	s.deploy("slow", 1)
	s.pdb("slow", "slow", 0)
	end := s.begin(node)
	s.awaitLogs("eviction blocked") // the drain has started and waits for this PDB
	asked := s.identityCalls()
	restore := s.AWS.Fail("sts", "GetCallerIdentity", awstest.Fault{
		Times: 1, Code: http.StatusForbidden, ErrorCode: "ExpiredToken", Message: "The security token included in the request is expired",
	})
	t.Cleanup(restore)
	s.until("the API server has forgotten the token", func() (bool, error) {
		return time.Since(asked[len(asked)-1].At) > tokenCacheTTL, nil
	})
	s.createPod("late", pinned(node))
	s.awaitGone("late")
	s.removePDB("slow")

	report := end()
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.Len(t, answered(s.evictions("late"), http.StatusCreated), 1)
	calls := s.identityCalls()[len(asked):]
	require.GreaterOrEqual(t, len(calls), 2)
	require.Equal(t, []int{http.StatusForbidden, http.StatusOK}, []int{calls[0].Code, calls[1].Code})
	require.NotEqual(t, calls[0].Params.Get("X-Amz-Signature"), calls[1].Params.Get("X-Amz-Signature"), "signed again")
	require.NotEqual(t, calls[0].Params.Get("X-Amz-Date"), calls[1].Params.Get("X-Amz-Date"))
}

// A token is made for one cluster. Otherwise a token for a test cluster would also open the production cluster.
func TestToken_OtherCluster_Refused(t *testing.T) {
	s := newFixture(t, 1)
	s.AWS.AddCluster(s.group, s.Lab.Endpoint(), s.Lab.CA())
	s.requireRefused("Unauthorized", "CLUSTER_NAME="+s.group)
}

// A revoked key must stop the function before it sends any request to Kubernetes.
func TestAccessKey_Unknown_Refused(t *testing.T) {
	s := newFixture(t, 1)
	s.requireRefused("InvalidClientTokenId", "AWS_ACCESS_KEY_ID=ASIAUNKNOWNUNKNOWN00")
}

// requireRefused drains with a function in this environment, which must fail with this error and change nothing.
func (s *fixture) requireRefused(words, environment string) {
	s.Helper()
	node := s.instances[0]
	s.runPodOn(node, "web")
	function := s.start("autoScalingGroups: [\""+s.group+"\"]\nmode: drain", environment)
	report := s.invokeOn(function, s.terminate(node).Body)
	require.Equal(s, "Failed", report.ErrorType)
	require.Contains(s, report.ErrorMessage, words)
	require.Empty(s, s.requests(function), "Kubernetes does not know the user")
	require.Empty(s, s.AWS.Completions(node.ID))
	require.False(s, s.node(node).Spec.Unschedulable)
	require.Nil(s, s.podsOn(node)[0].DeletionTimestamp)
}

// identityCalls returns the GetCallerIdentity calls that STS received for the fixture's function.
func (s *fixture) identityCalls() []awstest.Call {
	s.Helper()
	return slices.DeleteFunc(s.AWS.CallsOf(s.function.Session), func(c awstest.Call) bool { return c.Service != "sts" })
}

// permissionsOf returns the permissions of the group quiesce. Tests of internal/kube show the need of those for escorts.
func permissionsOf(t *testing.T, on *env.Env) (all []permission) {
	t.Helper()
	for _, rule := range rolesOf(t, on).rules() {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				if p := (permission{rule.APIGroups[0], resource, verb}); !slices.Contains(all, p) { // events are in two roles
					all = append(all, p)
				}
			}
		}
	}
	return all
}

// roles are the rules of the roles named quiesce, and of the one for events about pods. The namespace of a ClusterRole is empty.
type roles map[types.NamespacedName][]rbacv1.PolicyRule

func rolesOf(t *testing.T, on *env.Env) roles {
	t.Helper()
	rbac := on.Lab.Client().RbacV1()
	found := roles{}
	for _, name := range []string{"quiesce", "quiesce-pod-events"} {
		cluster, err := rbac.ClusterRoles().Get(t.Context(), name, metav1.GetOptions{})
		require.NoError(t, err)
		found[types.NamespacedName{Name: name}] = cluster.Rules
	}
	namespaced, err := rbac.Roles("").List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=quiesce"})
	require.NoError(t, err)
	for _, role := range namespaced.Items {
		found[types.NamespacedName{Namespace: role.Namespace, Name: role.Name}] = role.Rules
	}
	return found
}

func (r roles) rules() []rbacv1.PolicyRule { return slices.Concat(slices.Collect(maps.Values(r))...) }

// without takes a permission away until the test ends.
func (s *fixture) without(p permission) {
	s.Helper()
	all, fewer := rolesOf(s.T, s.Env), roles{}
	for role, rules := range all {
		fewer[role] = rulesWithout(rules, p)
	}
	s.grant(p, fewer, false)
	s.Cleanup(func() { s.grant(p, all, true) })
}

// grant sets the rules of the roles and waits until they are effective.
func (s *fixture) grant(p permission, r roles, allowed bool) {
	s.Helper()
	rbac := s.Lab.Client().RbacV1()
	for role, rules := range r {
		var err error
		if called := (metav1.ObjectMeta{Name: role.Name, Namespace: role.Namespace}); role.Namespace == "" {
			_, err = rbac.ClusterRoles().Update(s.ctx, &rbacv1.ClusterRole{ObjectMeta: called, Rules: rules}, metav1.UpdateOptions{})
		} else {
			_, err = rbac.Roles(role.Namespace).Update(s.ctx, &rbacv1.Role{ObjectMeta: called, Rules: rules}, metav1.UpdateOptions{})
		}
		require.NoError(s, err)
	}
	s.until(fmt.Sprintf("allowed to %s: %t", p, allowed), func() (bool, error) {
		now, err := s.isAllowed(p)
		return err == nil && now == allowed, err
	})
}

func (s *fixture) isAllowed(p permission) (bool, error) {
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

// renameInstance gives the instance another name in EC2 than its node has, so that the function must search for the node.
func (s *fixture) renameInstance() {
	s.Helper()
	s.instances = []env.Instance{s.instanceWithoutNode(s.group, "custom")}
	s.joinNode(s.instances[0], lab.Node{Name: "custom-" + s.group})
}

func (s *fixture) blockEvictions() {
	s.Helper()
	s.pdb("web", "web", 0)
}

// forceDeletions makes the function delete pods that their PDB blocks.
func (s *fixture) forceDeletions() {
	s.Helper()
	s.blockEvictions()
	s.function = s.newFunction("drain: {maxDuration: 12s, completionReserve: 1s, nodeJoinTimeout: 1s, volumeDetachTimeout: 1s}")
}

// addDisk puts a pod with a disk on the node.
func (s *fixture) addDisk() {
	s.Helper()
	attachment := s.disk("data", s.instances[0])
	s.Cleanup(func() { s.removeAttachmentFinalizer(attachment) })
	s.runPodOn(s.instances[0], "db", claiming("data"))
}

// addStayingDisk puts a pod with a disk on the node that stays there.
func (s *fixture) addStayingDisk() {
	s.Helper()
	attachment := s.disk("data", s.instances[0])
	s.Cleanup(func() { s.removeAttachmentFinalizer(attachment) })
	s.runPodOn(s.instances[0], "db", claiming("data"), annotated(drain.OptOutAnnotation, "false"))
}

// taintAsAdmin keeps evicted pods from coming back where the function cannot do so.
func (s *fixture) taintAsAdmin() {
	s.Helper()
	s.patchNode(s.instances[0], `{"spec":{"taints":[{"key":"admin","effect":"NoSchedule"}]}}`)
}

// sweepAfterEnd sweeps when an instance is gone whose Lease is still there.
func (s *fixture) sweepAfterEnd() report {
	s.Helper()
	target := s.instances[0]
	require.Equal(s, termination.StatusDrained, s.drain(target).Status)
	s.until("the instance is gone", func() (bool, error) { return s.AWS.State(target.ID) == "", nil })
	return s.invoke(read(s.T, "sweep"))
}

// sweepWithLostEvent sweeps while an instance waits whose event was lost.
func (s *fixture) sweepWithLostEvent() report {
	s.Helper()
	s.terminate(s.instances[0])
	return s.invoke(read(s.T, "sweep"))
}

// createExpiredLease creates the expired Lease of a function that crashed.
func (s *fixture) createExpiredLease() {
	s.Helper()
	holder, long := "crashed", metav1.NewMicroTime(time.Now().Add(-time.Hour))
	_, err := s.Lab.Client().CoordinationV1().Leases("quiesce").Create(s.ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: s.instances[0].ID},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: &long},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
}
