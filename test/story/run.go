package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/env/database"
	"quiesce/test/env/poolers"
	"quiesce/test/story/picture"
)

const (
	// hold is how long a job's transaction is open, and think how long the job is busy elsewhere.
	hold  = "100ms"
	think = "20ms"
	// sampling is what a picture of a minute shows of a change.
	sampling = 200 * time.Millisecond
	// hangsAfter is when a worker whose transaction takes 100 ms is said to hang. It then has since its last success.
	hangsAfter = 5 * time.Second
)

// run is one half of the story for one version of pgbouncer.
type run struct {
	*poolers.Fixture
	version string
	drained bool

	began      time.Time // of the samples
	terminated time.Time // when Auto Scaling decided
	died       time.Time // the node
	samples    []picture.Sample
	marks      []picture.Mark
	probesPass bool // no probe of a worker ever failed

	report    termination.Report
	results   poolers.Results
	keepalive time.Duration // until the kernel first asks whether a pooler that is gone is there
}

// runOnce plays one half.
func runOnce(ctx context.Context, g *poolers.NodePool, o options, version string, drained bool) (*run, error) {
	logf("pgbouncer %s, %s quiesce", version, withOrWithout(drained))
	t := &run{version: version, drained: drained, probesPass: true}
	var err error
	t.Fixture, err = poolers.SetUp(ctx, g, poolers.Options{
		Name:    withOrWithout(drained) + "-" + strings.ReplaceAll(version, ".", "-"),
		NoHook:  !drained,
		Poolers: database.Options{Version: version},
		Flags:   [][]string{{"-hold=" + hold, "-think=" + think}},
	})
	if err != nil {
		return nil, fmt.Errorf("set up: %w", err)
	}
	if err := t.watchRun(ctx, o); err != nil {
		return nil, err
	}
	if t.results, err = t.Finish(ctx, hangsAfter); err != nil {
		return nil, fmt.Errorf("compare the books: %w", err)
	}
	if t.keepalive, err = t.keepaliveTime(ctx); err != nil {
		return nil, fmt.Errorf("ask the workers' kernel: %w", err)
	}
	return t, t.TearDown(ctx)
}

// watchRun has the instance terminated while somebody watches the workers.
func (t *run) watchRun(ctx context.Context, o options) error {
	watching, stop := context.WithCancel(ctx)
	watched := make(chan error, 1)
	t.began = time.Now()
	go func() { watched <- t.watch(watching) }()
	err := t.terminateNode(ctx, o)
	stop()
	return errors.Join(err, <-watched)
}

func (t *run) terminateNode(ctx context.Context, o options) error {
	if err := poolers.Wait(ctx, o.warmUp); err != nil {
		return err
	}
	if err := t.ResetStalls(ctx); err != nil {
		return err
	}
	t.terminated = time.Now()
	t.mark(t.terminated, "terminated", false)
	if err := t.terminate(ctx); err != nil {
		return err
	}
	if err := t.AwaitTermination(ctx, t.Target); err != nil {
		return err
	}
	t.died = time.Now()
	t.mark(t.died, "node dies", true)
	return poolers.Wait(ctx, o.observe)
}

// terminate has Auto Scaling take the instance, and the built function drain it if this is that half.
func (t *run) terminate(ctx context.Context) (err error) {
	if !t.drained {
		t.AWS.Terminate(t.Target.ID)
		return nil
	}
	function, err := t.Function(context.WithoutCancel(ctx), t.Configuration())
	if err != nil {
		return err
	}
	defer function.Close()
	if t.report, err = t.Drain(ctx, function, t.Target); err != nil {
		return err
	}
	return t.markDrainSteps(function)
}

// markDrainSteps marks what the function did, from the API server's audit log and from the report.
func (t *run) markDrainSteps(function *env.Function) error {
	requests, err := t.Lab.Audit().By(function.User)
	if err != nil {
		return err
	}
	for _, r := range requests {
		if r.Verb == "patch" && r.Resource == "nodes" && r.Name == t.Target.Node {
			t.mark(r.Time, "cordon", false)
		}
	}
	for _, p := range t.report.Pods {
		if !p.EvictedAt.IsZero() {
			t.mark(p.EvictedAt, "evict "+kind(p.Name), false)
		}
	}
	for _, c := range t.AWS.Completions(t.Target.ID) {
		t.mark(c.At, "complete", false)
	}
	return nil
}

// kind is a pod's name without what its controllers appended.
func kind(pod string) string { return strings.Split(pod, "-")[0] }

func (t *run) mark(at time.Time, what string, fatal bool) {
	t.marks = append(t.marks, picture.Mark{At: at.Sub(t.began), What: what, Fatal: fatal})
}
