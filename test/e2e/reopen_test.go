package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

const (
	// minuteDrain ends a drain that cannot end by itself after a minute.
	minuteDrain = "drain: {maxDuration: 60s, completionReserve: 2s, nodeJoinTimeout: 1s, volumeDetachTimeout: 1s}"
	// threeMinuteDrain does so after three, where the test itself ends the drain before.
	threeMinuteDrain = "drain: {maxDuration: 3m, completionReserve: 2s, nodeJoinTimeout: 1s, volumeDetachTimeout: 1s}"
	// maxRecordons is how often a drain closes its node again, at most.
	maxRecordons = 10
)

const openNode = `{"spec":{"unschedulable":false}}`

// Someone opens the node in the middle of its drain, perhaps an autoscaler or an admin who means well, and a Deployment scales up.
// If the node stayed open, each pod that is evicted would come back, until the instance takes them all with it.
func TestCordon_UndoneDuringScaleUp_ClosedAgainAndEmpty(t *testing.T) {
	const before, after = 5, 20
	s := newFixture(t, 1, threeMinuteDrain)
	target := s.instances[0]
	s.deploy("web", before, stopping("500ms")) // their successors stay pending: the group has no other node
	s.runPodOn(target, "slow", untilDeleted)
	end := s.begin(target)
	s.until("web has left", func() (bool, error) { return len(s.podsOn(target)) <= 1, nil })
	s.patchNode(target, openNode)
	s.scale("web", after)
	s.until("the node is closed again", func() (bool, error) { return s.node(target).Spec.Unschedulable, nil })
	s.forceDelete("slow")

	r := end()
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Contains(t, []termination.Status{termination.StatusDrained, termination.StatusPartial}, r.Status)
	require.True(t, s.node(target).Spec.Unschedulable)
	require.LessOrEqual(t, len(answered(s.evictions(""), http.StatusCreated)), 1+before+after+1, "each pod that ever ran there, once")
	s.requireAllSignaled(r, target)
	s.until("the node is empty", func() (bool, error) { return len(s.podsOn(target)) == 0, nil })
	s.requireCompletedOnce(target)
}

// A controller that opens the node again and again must not draw the drain into a fight without end.
func TestCordon_UndoneAgainAndAgain_AtMostTenTimes(t *testing.T) {
	s := newFixture(t, 1, minuteDrain)
	target := s.instances[0]
	s.deploy("web", 3, stopping("200ms"))
	s.runPodOn(target, "slow", stopsAfter("8s"))
	end := s.begin(target)
	s.until("the drain has begun", func() (bool, error) { return s.node(target).Spec.Unschedulable, nil })
	stop := s.keepOpen(target)

	r := end()
	stop()
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	closings := s.closings(target)
	require.Greater(t, closings, 1, "it was closed again")
	require.LessOrEqual(t, closings, 1+maxRecordons)
	require.LessOrEqual(t, len(answered(s.evictions(""), http.StatusCreated)), 1+3*(maxRecordons+2), "evictions are bounded all the same")
	s.requireAllSignaled(r, target)
	s.requireCompletedOnce(target)
}

// closings counts how often the function has closed the instance's node.
func (s *fixture) closings(i env.Instance) (n int) {
	s.Helper()
	for _, r := range s.requests(s.function) {
		if isNodePatch(r) && r.Name == i.Node {
			n++
		}
	}
	return n
}

// keepOpen opens the instance's node whenever it is closed, until stop is called.
func (s *fixture) keepOpen(i env.Instance) (stop func()) {
	s.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan struct{})
	nodes := s.Lab.Client().CoreV1().Nodes()
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if node, err := nodes.Get(ctx, i.Node, metav1.GetOptions{}); err == nil && node.Spec.Unschedulable {
				_, _ = nodes.Patch(ctx, i.Node, types.MergePatchType, []byte(openNode), metav1.PatchOptions{})
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() { cancel(); <-done }
}

func (s *fixture) scale(app string, replicas int32) {
	s.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	_, err := s.Lab.Client().AppsV1().Deployments(s.group).Patch(s.ctx, app, types.MergePatchType, patch, metav1.PatchOptions{})
	require.NoError(s, err)
}

// requireAllSignaled requires that every pod of the report was told to stop: its eviction or its deletion was accepted. Pods that
// replace a pod of the last deletions are too late for that.
func (s *fixture) requireAllSignaled(r report, on env.Instance) {
	s.Helper()
	require.NotEmpty(s, r.Pods)
	deleted, last := map[string]bool{}, time.Time{}
	for _, d := range s.deletions("") {
		if last.IsZero() {
			last = d.Time
		}
		if d.Code == http.StatusOK && d.Preconditions != nil && d.Preconditions.UID != nil {
			deleted[string(*d.Preconditions.UID)] = true
		}
	}
	late := map[string]bool{}
	for _, p := range s.podsOn(on) {
		late[string(p.UID)] = !last.IsZero() && !p.CreationTimestamp.Time.Before(last.Truncate(time.Second))
	}
	for _, line := range r.Pods {
		told := !line.EvictedAt.IsZero() || deleted[line.UID] || late[line.UID]
		require.True(s, told, "%s/%s was never told to stop: %+v", line.Namespace, line.Name, line)
	}
}

// A controller that binds its pods to the node itself ignores the cordon. Each eviction makes the next pod, as fast as the API server
// can answer.
func TestEvict_PinnedByNodeName_SignalsBounded(t *testing.T) {
	const replicas = 3
	s := newFixture(t, 1, minuteDrain)
	target := s.instances[0]
	s.pinnedReplicaSet("pinned", replicas, target)
	s.runPodOn(target, "web", stopsAfter("100ms"))

	r := s.drain(target)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusPartial, r.Status)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	require.LessOrEqual(t, len(answered(s.evictions(""), http.StatusCreated)), 1+replicas+1)
	require.LessOrEqual(t, len(s.deletions("")), 2*replicas, "those that are left get one deletion each")
	require.Less(t, r.FinishedAt, r.Deadline.Add(-10*time.Second), "nothing is left to wait for")
	s.requireAllSignaled(r, target)
	named := 0
	for _, line := range r.RemainedPods() {
		require.Contains(t, line.Reason, "pinned", "the controller is named")
		named++
	}
	require.Positive(t, named)
	s.requireCompletedOnce(target)
}

// pinnedReplicaSet runs a ReplicaSet whose template names the node.
func (s *fixture) pinnedReplicaSet(app string, replicas int32, i env.Instance) {
	s.Helper()
	template := s.template(app)
	onNode(i)(&template.Spec)
	template.Annotations = map[string]string{lab.StopAfter: "200ms"}
	sets := s.Lab.Client().AppsV1().ReplicaSets(s.group)
	_, err := sets.Create(s.ctx, &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, Template: template,
		},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	s.until("set "+app+" is ready", func() (bool, error) {
		set, err := sets.Get(s.ctx, app, metav1.GetOptions{})
		return err == nil && set.Status.ReadyReplicas == replicas, err
	})
}
