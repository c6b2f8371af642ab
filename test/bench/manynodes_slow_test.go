package bench

import (
	"fmt"
	"testing"
	"time"

	"quiesce/test/parts/lab"
)

const (
	// slowPods are on each node, and each takes slowStop to stop: little work for the API server, and much waiting.
	slowPods = 3
	slowStop = 30 * time.Second
)

// BenchmarkManyNodesThatWait terminates 100 nodes at once whose pods take 30 s to stop. Drains wait then, and do not work. The fewer run at
// a time, the longer the last node waits for its turn: this decides how many should.
func BenchmarkManyNodesThatWait(b *testing.B) {
	lab.Require(b)
	s := start(b)
	round := 0
	for b.Loop() {
		round++
		for _, n := range atOnce {
			w := fillManyNodes(b, s, fmt.Sprintf("wait-%d-many-%d", n, round), slowPods, slowStop.String())
			took := w.quiesce(n)
			w.clear()
			b.ReportMetric(took.Seconds(), fmt.Sprintf("at-once-%d-s", n))
			b.ReportMetric(took.Seconds()/slowStop.Seconds(), fmt.Sprintf("at-once-%d/stop", n))
		}
	}
	b.ReportMetric(0, "ns/op")
}
