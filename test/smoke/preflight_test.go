package main

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"quiesce/test/parts/awstest"
)

const (
	scratch  = "scratch"
	endpoint = "https://0123456789ABCDEF.gr7.eu-west-1.eks.amazonaws.com"
	first    = "i-0123456789abcdef0"
	second   = "i-0123456789abcdef1"
)

// place is an account and a cluster that a run may use, before a test changes something.
type place struct {
	aws     *awstest.Server
	objects []runtime.Object
	host    string
	set     settings
}

func node(instance string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-" + instance},
		Spec:       corev1.NodeSpec{ProviderID: "aws:///eu-west-1a/" + instance},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
	for _, c := range change {
		c(n)
	}
	return n
}

// Whatever may be used by others is refused, and nothing is changed by then.
func TestPreflight_NotAScratchGroup_Refused(t *testing.T) {
	cordoned := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	for name, c := range map[string]struct {
		change func(*place)
		want   string
	}{
		"as it should be": {func(*place) {}, ""},
		"no such group":   {func(p *place) { p.set.Group = "typo" }, "no Auto Scaling group typo in eu-west-1"},
		"untagged":        {func(p *place) { p.aws.TagGroup(scratch, nil) }, "has no tag quiesce/smoke=true"},
		"tagged false":    {func(p *place) { p.aws.TagGroup(scratch, map[string]string{smokeTag: "false"}) }, "has no tag quiesce/smoke=true"},
		"too large":       {func(p *place) { p.set.MaxInstances = 1 }, "has 2 instances: a scratch group has at most 1"},
		"drained already": {func(p *place) { p.aws.AddGroup(scratch, awstest.Hook{Name: hook}) }, `has a hook "quiesce" already`},
		"deployed already": {func(p *place) {
			p.aws.AddFunction("quiesce-prod", func(context.Context, []byte) ([]byte, string, error) { return nil, "", nil })
		}, "function quiesce-prod exists"},
		"unknown cluster":  {func(p *place) { p.set.Cluster = "typo" }, "No cluster found"},
		"other KUBECONFIG": {func(p *place) { p.host = "https://production" }, "KUBECONFIG is for https://production"},
		"leftovers": {func(p *place) {
			p.objects = append(p.objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
		}, "kubectl delete namespace quiesce-smoke"},
		"one node":     {func(p *place) { p.objects = []runtime.Object{node(first)} }, "need a second node"},
		"no node":      {func(p *place) { p.objects = []runtime.Object{node("i-0"), node("i-1")} }, "no instance of scratch is in service"},
		"cordoned one": {func(p *place) { p.objects = []runtime.Object{node(first, cordoned), node(second)} }, "need a second node"},
	} {
		t.Run(name, func(t *testing.T) {
			server, sdk := awstest.Serve(t)
			url := server.URL()
			sdk.BaseEndpoint = &url
			server.AddGroup(scratch)
			server.TagGroup(scratch, map[string]string{smokeTag: "true"})
			server.AddCluster("prod", endpoint, nil)
			for _, id := range []string{first, second} {
				server.AddInstance(scratch, awstest.Instance{ID: id, Zone: "eu-west-1a"})
			}
			p := place{
				server, []runtime.Object{node(first), node(second)}, endpoint,
				settings{Group: scratch, Cluster: "prod", MaxInstances: defaultMaxInstances},
			}
			c.change(&p)
			kube := fake.NewClientset(p.objects...)
			note, err := connect(sdk, kube, p.host, p.set).preflight(t.Context())
			if c.want == "" {
				require.NoError(t, err)
				require.Contains(t, note, "account 111122223333, region eu-west-1, cluster prod, group scratch with 2 instances")
			} else {
				require.ErrorContains(t, err, c.want)
			}
			require.False(t, slices.ContainsFunc(server.Calls(), func(c awstest.Call) bool {
				return !strings.HasPrefix(c.Action, "Describe") && !strings.HasPrefix(c.Action, "Get")
			}))
			for _, action := range kube.Actions() {
				require.Contains(t, []string{"get", "list"}, action.GetVerb())
			}
		})
	}
}
