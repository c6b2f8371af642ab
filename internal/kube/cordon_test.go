package kube

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// cordonEnv is a node without a kubelet, and what is saved of it.
type cordonEnv struct {
	*taintEnv
	node  drain.Node
	began time.Time
	saved []termination.ClosedNode
}

func newCordonEnv(t *testing.T) *cordonEnv {
	t.Helper()
	e := &cordonEnv{taintEnv: newTaintEnv(t, 1), began: time.Now().Add(-time.Minute)}
	found, err := e.client.NodeByName(t.Context(), e.nodes[0].Name)
	require.NoError(t, err)
	e.node = *found
	clear(e.requests)
	return e
}

// closing is one that saves, with what was saved before.
func (e *cordonEnv) closing() termination.Closing {
	c := termination.Closing{Hook: "quiesce", Began: e.began, Save: func(_ context.Context, n termination.ClosedNode) error {
		e.saved = append(e.saved, n)
		return nil
	}}
	if len(e.saved) > 0 {
		c.Earlier = &e.saved[len(e.saved)-1]
	}
	return c
}

func (e *cordonEnv) cordonNow() termination.ClosedNode {
	e.Helper()
	closed, err := e.client.Cordon(e.Context(), e.node, e.closing())
	require.NoError(e, err)
	return closed
}

func (e *cordonEnv) change(patch string) {
	e.Helper()
	_, err := e.Client().CoreV1().Nodes().Patch(e.Context(), e.node.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	require.NoError(e, err)
}

func TestCordon_OpenNode_SavesThenClosesThenRestores(t *testing.T) {
	e := newCordonEnv(t)
	before := e.get(e.node)
	closing := e.closing()
	save := closing.Save
	closing.Save = func(ctx context.Context, n termination.ClosedNode) error {
		require.False(t, e.get(e.node).Spec.Unschedulable, "saved before it is changed")
		return save(ctx, n)
	}
	closed, err := e.client.Cordon(t.Context(), e.node, closing)
	require.NoError(t, err)
	require.Equal(t, []termination.ClosedNode{closed}, e.saved)
	require.Equal(t, termination.ClosedNode{
		Name: e.node.Name, UID: e.node.UID, Hook: "quiesce", Began: e.began, CordonedAt: closed.CordonedAt, Unschedulable: true, Excluded: true,
	}, closed)
	node := e.get(e.node)
	require.True(t, node.Spec.Unschedulable)
	require.Equal(t, excludeValue, node.Labels[excludeLabel])
	require.Contains(t, node.Annotations[terminationAnnotation], `"hook":"quiesce"`)
	require.Equal(t, map[string]int{http.MethodGet: 1, http.MethodPatch: 1}, e.requests)

	e.cordonNow()
	require.Len(t, e.saved, 1, "it is closed for this termination already")
	require.Equal(t, map[string]int{http.MethodGet: 2, http.MethodPatch: 1}, e.requests)

	require.NoError(t, e.client.Restore(t.Context(), e.node, &closed))
	node = e.get(e.node)
	require.Equal(t, before.Labels, node.Labels)
	require.NotContains(t, node.Annotations, terminationAnnotation)
	require.False(t, node.Spec.Unschedulable)
	require.Equal(t, before.Spec.Taints, withoutCordonTaint(node))
	clear(e.requests)
	require.NoError(t, e.client.Restore(t.Context(), e.node, &closed))
	require.Equal(t, map[string]int{http.MethodGet: 1}, e.requests, "nothing is left to undo")
}

// withoutCordonTaint returns the node's taints without the one that the node controller adds for a cordon, and removes later.
func withoutCordonTaint(n *corev1.Node) (taints []corev1.Taint) {
	for _, taint := range n.Spec.Taints {
		if taint.Key != corev1.TaintNodeUnschedulable {
			taints = append(taints, taint)
		}
	}
	return taints
}

// A request per drain that a busy API server need not answer.
func TestCordon_NodeJustFound_NoSecondRead(t *testing.T) {
	e := newCordonEnv(t)
	found, err := e.client.FindNodes(t.Context(), e.node.InstanceID, termination.EC2Instance{PrivateDNS: e.node.Name})
	require.NoError(t, err)
	require.Equal(t, []drain.Node{e.node}, found.Nodes)
	e.change(`{"metadata":{"labels":{"team":"db"}}}`)
	e.cordonNow()
	require.Equal(t, map[string]int{http.MethodGet: 2, http.MethodPatch: 2}, e.requests, "the conflict costs the second read")
	require.Len(t, e.saved, 1, "what is changed is the same")

	other := e.addNode(1, true)
	clear(e.requests)
	found, err = e.client.FindNodes(t.Context(), other.InstanceID, termination.EC2Instance{PrivateDNS: other.Name})
	require.NoError(t, err)
	_, err = e.client.Cordon(t.Context(), found.Nodes[0], termination.Closing{Began: e.began})
	require.NoError(t, err)
	require.Equal(t, map[string]int{http.MethodGet: 1, http.MethodPatch: 1}, e.requests)
}

// Between the read and the patch, a person cordons the node: then it is not ours to uncordon.
func TestCordon_PersonWasFaster_IsNotOursToUndo(t *testing.T) {
	e := newCordonEnv(t)
	closing := e.closing()
	save, once := closing.Save, false
	closing.Save = func(ctx context.Context, n termination.ClosedNode) error {
		if !once {
			once = true
			e.change(`{"spec":{"unschedulable":true},"metadata":{"labels":{"` + excludeLabel + `":"theirs"}}}`)
		}
		return save(ctx, n)
	}
	closed, err := e.client.Cordon(t.Context(), e.node, closing)
	require.NoError(t, err)
	require.Len(t, e.saved, 2)
	require.True(t, e.saved[0].Unschedulable)
	require.False(t, closed.Unschedulable)
	require.False(t, closed.Excluded)
	require.NoError(t, e.client.Restore(t.Context(), e.node, &closed))
	require.True(t, e.get(e.node).Spec.Unschedulable)
	require.Equal(t, "theirs", e.get(e.node).Labels[excludeLabel])
	require.NotContains(t, e.get(e.node).Annotations, terminationAnnotation)
}

// Pods that came to the open node are like those before. The next invocation knows that only from the Lease.
func TestCordon_UncordonedMeanwhile_ClosedSinceNow(t *testing.T) {
	e := newCordonEnv(t)
	first := e.cordonNow()
	e.change(`{"spec":{"unschedulable":false}}`)
	again := e.cordonNow()
	require.True(t, e.get(e.node).Spec.Unschedulable)
	require.True(t, again.CordonedAt.After(first.CordonedAt))
	require.True(t, again.Unschedulable)
	require.True(t, again.Excluded)
	require.Equal(t, []termination.ClosedNode{first, again}, e.saved)
	require.Equal(t, again, e.cordonNow(), "the next invocation")
	require.Len(t, e.saved, 2)
}

// A person had cordoned the node before quiesce, and opened it then.
func TestCordon_PersonOpensOwnCordon_ClosedSinceNow(t *testing.T) {
	e := newCordonEnv(t)
	e.change(`{"spec":{"unschedulable":true}}`)
	first := e.cordonNow()
	e.change(`{"spec":{"unschedulable":false}}`)
	again := e.cordonNow()
	require.True(t, again.CordonedAt.After(first.CordonedAt))
	require.True(t, again.Unschedulable)
}

// A later termination finds the node closed by an earlier one. Only the Lease says that quiesce did that.
func TestCordon_ClosedEarlier_OnlyTheLeaseIsBelieved(t *testing.T) {
	e := newCordonEnv(t)
	e.cordonNow()
	e.began = e.began.Add(time.Hour)
	later := e.cordonNow()
	require.True(t, later.Unschedulable)
	require.True(t, later.Excluded)
	require.Len(t, e.saved, 2)

	e.saved, e.began = nil, e.began.Add(time.Hour)
	unknown := e.cordonNow()
	require.False(t, unknown.Unschedulable)
	require.False(t, unknown.Excluded)
	require.NoError(t, e.client.Restore(t.Context(), e.node, nil))
	require.True(t, e.get(e.node).Spec.Unschedulable)
}

// An invocation without a Lease closed the node. The node's annotation tells the next one of the same termination which changes are ours.
func TestCordon_ClosedWithoutLease_AnnotationOfThisTerminationIsBelieved(t *testing.T) {
	for name, c := range map[string]struct {
		before string // a change by a person, before
		began  time.Duration
		ours   bool
	}{
		"this termination":    {`{}`, 0, true},
		"a later termination": {`{}`, time.Hour, false},
		"a person's cordon":   {`{"spec":{"unschedulable":true},"metadata":{"labels":{"` + excludeLabel + `":"theirs"}}}`, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := newCordonEnv(t)
			e.change(c.before)
			closing := e.closing()
			closing.Save = nil
			_, err := e.client.Cordon(t.Context(), e.node, closing)
			require.NoError(t, err)
			e.began = e.began.Add(c.began)
			closed := e.cordonNow()
			require.Equal(t, c.ours, closed.Unschedulable)
			require.Equal(t, c.ours, closed.Excluded)
			require.Equal(t, []termination.ClosedNode{closed}, e.saved)
		})
	}
}

func TestCordon_AnotherNode_IsNotChanged(t *testing.T) {
	e := newCordonEnv(t)
	for what, node := range map[string]drain.Node{
		"UID":      {Name: e.node.Name, UID: "another", InstanceID: e.node.InstanceID},
		"instance": {Name: e.node.Name, UID: e.node.UID, InstanceID: "i-another"},
	} {
		_, err := e.client.Cordon(t.Context(), node, e.closing())
		require.ErrorIs(t, err, drain.ErrNodeReplaced, what)
		require.ErrorContains(t, err, "its "+what+" was ")
	}
	require.Empty(t, e.saved)
	require.False(t, e.get(e.node).Spec.Unschedulable)

	closed := e.cordonNow()
	namesake := e.node
	namesake.UID = "another"
	require.NoError(t, e.client.Restore(t.Context(), namesake, nil))
	closed.UID = "another"
	require.NoError(t, e.client.Restore(t.Context(), e.node, &closed))
	require.True(t, e.get(e.node).Spec.Unschedulable)
	require.Contains(t, e.get(e.node).Annotations, terminationAnnotation)
	require.NoError(t, e.client.Restore(t.Context(), drain.Node{Name: "gone-" + e.namespace}, &closed))
}

func TestCordon_NotSaved_NodeStaysOpen(t *testing.T) {
	e := newCordonEnv(t)
	closing := e.closing()
	closing.Save = func(context.Context, termination.ClosedNode) error { return errLeaseLost }
	_, err := e.client.Cordon(t.Context(), e.node, closing)
	require.ErrorIs(t, err, errLeaseLost)
	require.False(t, e.get(e.node).Spec.Unschedulable)
}

// A plan has found the node while it was open, and another function has closed it since. A frozen function's clock may say that both were now.
func TestRestore_ClosedSinceItWasFound_Opened(t *testing.T) {
	e := newCordonEnv(t)
	_, err := e.client.FindNodes(t.Context(), e.node.InstanceID, termination.EC2Instance{PrivateDNS: e.node.Name})
	require.NoError(t, err)
	config := e.Admin()
	config.Impersonate = rest.ImpersonationConfig{UserName: "function", Groups: []string{"quiesce"}}
	other, err := New(config)
	require.NoError(t, err)
	closed, err := other.Cordon(t.Context(), e.node, e.closing())
	require.NoError(t, err)
	require.True(t, e.get(e.node).Spec.Unschedulable)
	require.NoError(t, e.client.Restore(t.Context(), e.node, &closed))
	require.False(t, e.get(e.node).Spec.Unschedulable)
}

func TestRestore_TaintedPeer_KeepsOtherTaints(t *testing.T) {
	e := newCordonEnv(t)
	require.NoError(t, e.client.TaintTerminating(t.Context(), e.nodes))
	e.requireTainted(e.node)
	require.NoError(t, e.client.Restore(t.Context(), e.node, nil))
	require.Len(t, e.get(e.node).Spec.Taints, 1)
	require.Equal(t, "team", e.get(e.node).Spec.Taints[0].Key)
}

// A webhook may answer with any text, and the error goes into the report.
func TestBounded_LongText_IsCutAndRecognized(t *testing.T) {
	denied := apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "node-a", errors.New(strings.Repeat("é", 1<<20)))
	err := bounded(denied)
	require.LessOrEqual(t, len(err.Error()), drain.MaxText)
	require.True(t, apierrors.IsForbidden(err))
	require.NoError(t, bounded(nil))
}

// denyCordons makes an admission policy of the cluster's owner deny every cordon of the node.
func (e *cordonEnv) denyCordons() {
	e.Helper()
	admission, name := e.Client().AdmissionregistrationV1(), "deny-"+e.namespace
	_, err := admission.ValidatingAdmissionPolicies().Create(e.Context(), &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
				ResourceNames: []string{e.node.Name},
				RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Update},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"nodes"}},
				},
			}}},
			Validations: []admissionregistrationv1.Validation{{Expression: "!has(object.spec.unschedulable)", Message: "cordons are not allowed here"}},
		},
	}, metav1.CreateOptions{})
	require.NoError(e, err)
	_, err = admission.ValidatingAdmissionPolicyBindings().Create(e.Context(), &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: name, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
		},
	}, metav1.CreateOptions{})
	require.NoError(e, err)
	e.Cleanup(func() {
		_ = admission.ValidatingAdmissionPolicyBindings().Delete(context.Background(), name, metav1.DeleteOptions{})
		_ = admission.ValidatingAdmissionPolicies().Delete(context.Background(), name, metav1.DeleteOptions{})
	})
	e.eventually(func() bool {
		_, err := e.Client().CoreV1().Nodes().Patch(context.Background(), e.node.Name, types.MergePatchType,
			[]byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil
	})
}

// What was denied was not changed. So a cordon that a person makes later is not ours to undo.
func TestCordon_Denied_ErrorSaysSoAndNothingStaysSaved(t *testing.T) {
	e := newCordonEnv(t)
	e.denyCordons()
	_, err := e.client.Cordon(t.Context(), e.node, e.closing())
	var refused *drain.Refused
	require.ErrorAs(t, err, &refused, "it is not tried again")
	require.ErrorContains(t, err, "cordon node "+e.node.Name)
	require.ErrorContains(t, err, "cordons are not allowed here")
	require.Len(t, e.saved, 2)
	require.True(t, e.saved[0].Unschedulable)
	require.False(t, e.saved[1].Unschedulable)
	require.False(t, e.saved[1].Excluded)
}
