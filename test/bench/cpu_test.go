package bench

import (
	"maps"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"quiesce/test/env"
	"quiesce/test/parts/cputime"
)

// cpuUse is the CPU time of everything that a drain keeps busy.
type cpuUse struct {
	controlPlane map[string]time.Duration // by component
	functions    time.Duration
	benchmark    time.Duration // this process: the simulated AWS, the queue, the ideal client, and what is measured
	clock        time.Duration
}

// measureCPU returns a function that says what was used meanwhile.
func measureCPU(s *env.Env, functions ...*env.Function) (used func() cpuUse) {
	now := func() (c cpuUse) {
		c.controlPlane, c.benchmark = s.Lab.CPU(), cputime.Of(os.Getpid())
		for _, f := range functions {
			c.functions += f.CPU()
		}
		return c
	}
	before, began := now(), time.Now()
	return func() cpuUse {
		after := now()
		for component, at := range before.controlPlane {
			after.controlPlane[component] -= at
		}
		after.functions -= before.functions
		after.benchmark -= before.benchmark
		after.clock = time.Since(began)
		return after
	}
}

func (c cpuUse) ofControlPlane() (sum time.Duration) {
	for _, used := range c.controlPlane {
		sum += used
	}
	return sum
}

func (c cpuUse) sum() time.Duration { return c.ofControlPlane() + c.functions + c.benchmark }

// report reports seconds of CPU, and which share of all cores they are.
func (c cpuUse) report(b *testing.B, prefix string) {
	for _, component := range slices.Sorted(maps.Keys(c.controlPlane)) {
		if used := c.controlPlane[component]; used >= time.Second {
			b.Logf("%scpu of %s: %.1f s", prefix, component, used.Seconds())
		}
	}
	b.ReportMetric(c.ofControlPlane().Seconds(), prefix+"control-plane-cpu-s")
	b.ReportMetric(c.functions.Seconds(), prefix+"functions-cpu-s")
	b.ReportMetric(c.benchmark.Seconds(), prefix+"benchmark-cpu-s")
	b.ReportMetric(100*c.sum().Seconds()/c.clock.Seconds()/float64(runtime.NumCPU()), prefix+"cpu-%")
}
