package drain_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
	"quiesce/test/parts/bubble"
)

// slowCluster takes time for each look at its pods, as a busy machine does.
type slowCluster struct {
	*draintest.Cluster
	takes time.Duration
	looks atomic.Int64
}

func (c *slowCluster) Pods() []drain.Pod {
	c.looks.Add(1)
	time.Sleep(c.takes)
	return c.Cluster.Pods()
}

// Each pod causes several events, and each look is at all pods. So one look is for all events of a while, and that while is short.
func TestDrain_ManyEvents_FewLooks(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const pods = 300
		c := &slowCluster{Cluster: draintest.New(), takes: time.Millisecond}
		for n := range pods {
			c.Add(pod(fmt.Sprint("web-", n)), 500*time.Millisecond+time.Duration(n)*time.Millisecond)
		}
		c.Slow(5*time.Millisecond, 0)
		began := time.Now()
		report, _ := drainer().Drain(within(t, time.Minute), c, drain.Node{})
		require.Empty(t, report.Remaining())
		require.Len(t, report.Pods, pods)
		took := time.Since(began)
		require.Less(t, took, 2*time.Second)
		require.Less(t, c.looks.Load(), int64(took/(5*time.Millisecond)), "a look takes a fifth of the time at the most")
	})
}

// A look that takes long does not keep the drain from the next event for longer than a moment.
func TestDrain_LookTakesLong_NextEventWaitsForAMoment(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := &slowCluster{Cluster: draintest.New(), takes: 100 * time.Millisecond}
		c.Add(pod("web-0"), time.Second).Add(pod("web-1"), time.Second+10*time.Millisecond)
		began := time.Now()
		report, _ := drainer().Drain(within(t, time.Minute), c, drain.Node{})
		require.Empty(t, report.Remaining())
		require.Less(t, time.Since(began), 2*time.Second)
	})
}
