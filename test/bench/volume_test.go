package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/env/patroni"
	"quiesce/test/env/poolers"
	"quiesce/test/parts/lab"
)

// volumeTimeout bounds the move of a volume: without a drain, Kubernetes waits six minutes before it attaches the volume elsewhere.
const volumeTimeout = 15 * time.Minute

// BenchmarkVolume terminates the node of a database's only member, whose volume follows it to another node. It measures when the volume was
// attached there, and when the member was ready, with a drain and without one.
func BenchmarkVolume(b *testing.B) {
	lab.RequireMachines(b)
	root, err := env.Root()
	require.NoError(b, err)
	pool, err := poolers.StartNodePool(b.Context(), "patroni")
	require.NoError(b, err)
	defer func() { require.NoError(b, pool.Stop()) }()
	serial := 0
	for _, drained := range []bool{true, false} {
		name := map[bool]string{true: "drained", false: "not-drained"}[drained]
		b.Run(name, func(b *testing.B) {
			var detached, attached, ready, letGo []time.Duration
			for range b.N {
				serial++
				m := moveVolume(b, pool, root, fmt.Sprintf("volume-%d", serial), drained)
				fmt.Fprintf(os.Stderr, "volume: %s: after the pod was told to stop: detached %s, attached %s, ready %s; let go after %s\n",
					name, m.detached, m.attached, m.ready, m.letGo)
				detached, attached = append(detached, m.detached), append(attached, m.attached)
				ready, letGo = append(ready, m.ready), append(letGo, m.letGo)
			}
			b.ReportMetric(median(detached).Seconds(), "detached-s")
			b.ReportMetric(median(attached).Seconds(), "re-attached-s")
			b.ReportMetric(median(ready).Seconds(), "replacement-s")
			b.ReportMetric(median(letGo).Seconds(), "let-go-s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// volumeMove is how long the steps of a move took since the member was evicted, or its node was killed.
type volumeMove struct {
	detached, attached, ready time.Duration
	letGo                     time.Duration // from the lifecycle action to its completion; none without a drain
}

func moveVolume(b *testing.B, pool *poolers.NodePool, root, name string, drained bool) (m volumeMove) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), volumeTimeout)
	defer cancel()
	makeGroup := pool.GroupWithoutHook
	if drained {
		makeGroup = pool.Group
	}
	_, err := makeGroup(ctx, name, 0)
	require.NoError(b, err)
	nodes, err := pool.Acquire(ctx, name, 2)
	require.NoError(b, err)
	c, err := patroni.DeployAlone(ctx, pool.Lab, patroni.Options{Namespace: name, Group: name, Version: "4.0", Members: 1, Claim: patroni.EBSClaim})
	require.NoError(b, err)
	require.NoError(b, c.Allow(ctx, root))
	leader, err := c.Leader(ctx)
	require.NoError(b, err)
	target := nodes[slices.IndexFunc(nodes, func(i env.Instance) bool { return i.Node == leader.Spec.NodeName })]
	moved, err := c.WatchVolume(ctx)
	require.NoError(b, err)

	began := time.Now()
	events, stopped := pool.AWS.Terminate(target.ID), began
	if drained {
		stopped = drainMember(ctx, b, pool, name, leader.Name, events[0].Body)
		m.letGo = pool.AWS.Completions(target.ID)[0].At.Sub(began)
	}
	require.NoError(b, pool.AwaitTermination(ctx, target))
	require.NoError(b, pool.Release(ctx, target)) // EKS removes the node of an instance that is gone
	at, err := moved()
	require.NoError(b, err)
	_, err = c.AwaitReady(ctx)
	require.NoError(b, err)
	m.ready, m.detached, m.attached = time.Since(stopped), at.Detached.Sub(stopped), at.Attached.Sub(stopped)
	require.NoError(b, c.Remove(ctx))
	for _, i := range nodes {
		if i != target {
			require.NoError(b, pool.Release(ctx, i))
		}
	}
	return m
}

// drainMember gives the event to a function, and returns when it evicted the member.
func drainMember(ctx context.Context, b *testing.B, pool *poolers.NodePool, group, member string, event []byte) (evicted time.Time) {
	b.Helper()
	function, err := pool.Function(ctx, "autoScalingGroups: ["+group+"]\nmode: drain\n")
	require.NoError(b, err)
	defer func() { require.NoError(b, function.Close()) }()
	result, err := function.Invoke(ctx, event)
	require.NoError(b, err)
	require.Empty(b, result.ErrorType, result.ErrorMessage)
	var report termination.Report
	require.NoError(b, json.Unmarshal(result.Payload, &report))
	at := slices.IndexFunc(report.Pods, func(p drain.PodReport) bool { return p.Name == member })
	require.GreaterOrEqual(b, at, 0, "%+v", report)
	return report.Pods[at].EvictedAt
}
