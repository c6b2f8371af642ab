package drain_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

func TestVerdict_KindOfPod_Decides(t *testing.T) {
	cordoned := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	before := cordoned.Add(-time.Hour)
	annotated := func(key, value string) drain.Pod { return drain.Pod{Annotations: map[string]string{key: value}} }
	for name, c := range map[string]struct {
		pod  drain.Pod
		want drain.Verdict
	}{
		"an ordinary pod":                        {drain.Pod{Controller: "ReplicaSet"}, drain.Evict},
		"a bare pod":                             {drain.Pod{}, drain.Evict},
		"a static pod":                           {drain.Pod{Mirror: true}, drain.Skip},
		"a finished pod":                         {drain.Pod{Finished: true}, drain.Skip},
		"a finished pod that a finalizer keeps":  {drain.Pod{Finished: true, Deleted: before}, drain.Skip},
		"a DaemonSet's pod":                      {drain.Pod{Controller: "DaemonSet"}, drain.Skip},
		"a DaemonSet's pod that is terminating":  {drain.Pod{Controller: "DaemonSet", Deleted: before}, drain.Skip},
		"a pod that opted out":                   {annotated("quiesce/drain", "false"), drain.Skip},
		"a pod that did not opt out":             {annotated("quiesce/drain", "true"), drain.Evict},
		"a terminating pod":                      {drain.Pod{Deleted: before}, drain.Wait},
		"a pod that is not safe to evict":        {annotated("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"), drain.Hold},
		"a pod that is safe to evict":            {annotated("cluster-autoscaler.kubernetes.io/safe-to-evict", "true"), drain.Evict},
		"a pod not to be disrupted":              {annotated("karpenter.sh/do-not-disrupt", "true"), drain.Hold},
		"a pod not to be disrupted for a while":  {annotated("karpenter.sh/do-not-disrupt", "30m"), drain.Hold},
		"a pod that may be disrupted":            {annotated("karpenter.sh/do-not-disrupt", "false"), drain.Evict},
		"a held pod that is terminating already": {withDeletion(annotated("karpenter.sh/do-not-disrupt", "true"), before), drain.Wait},
	} {
		t.Run(name, func(t *testing.T) {
			got := drain.Decide(c.pod, drain.Node{Cordoned: cordoned})
			require.Equal(t, c.want, got.Verdict)
			require.Equal(t, c.want == drain.Evict, got.Reason == "", "every verdict but the ordinary one has a reason")
		})
	}
}

func TestVerdict_KubeletUnreachable_TerminatingSkipped(t *testing.T) {
	unreachable := drain.Node{Unreachable: true}
	require.Equal(t, drain.Evict, drain.Decide(drain.Pod{}, unreachable).Verdict, "its successor is wanted on another node")
	require.Equal(t, drain.Skip, drain.Decide(drain.Pod{Deleted: time.Unix(1, 0)}, unreachable).Verdict)
}

func withDeletion(p drain.Pod, at time.Time) drain.Pod {
	p.Deleted = at
	return p
}
