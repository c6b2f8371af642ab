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
	r := &run{version: version, drained: drained, probesPass: true}
	var err error
	r.Fixture, err = poolers.SetUp(ctx, g, poolers.Options{
		Name:    withOrWithout(drained) + "-" + strings.ReplaceAll(version, ".", "-"),
		NoHook:  !drained,
		Poolers: database.Options{Version: version},
		Flags:   [][]string{{"-hold=" + hold, "-think=" + think}},
	})
	if err != nil {
		return nil, fmt.Errorf("set up: %w", err)
	}
	if err := r.watchRun(ctx, o); err != nil {
		return nil, err
	}
	if r.results, err = r.Finish(ctx, hangsAfter); err != nil {
		return nil, fmt.Errorf("compare the books: %w", err)
	}
	if r.keepalive, err = r.keepaliveTime(ctx); err != nil {
		return nil, fmt.Errorf("ask the workers' kernel: %w", err)
	}
	return r, r.TearDown(ctx)
}

// watchRun has the instance terminated while somebody watches the workers.
func (r *run) watchRun(ctx context.Context, o options) error {
	watching, stop := context.WithCancel(ctx)
	watched := make(chan error, 1)
	r.began = time.Now()
	go func() { watched <- r.watch(watching) }()
	err := r.terminateNode(ctx, o)
	stop()
	return errors.Join(err, <-watched)
}

func (r *run) terminateNode(ctx context.Context, o options) error {
	if err := poolers.Wait(ctx, o.warmUp); err != nil {
		return err
	}
	if err := r.ResetStalls(ctx); err != nil {
		return err
	}
	r.terminated = time.Now()
	r.mark(r.terminated, "terminated", false)
	if err := r.terminate(ctx); err != nil {
		return err
	}
	if err := r.AwaitTermination(ctx, r.Target); err != nil {
		return err
	}
	r.died = time.Now()
	r.mark(r.died, "node dies", true)
	return poolers.Wait(ctx, o.observe)
}

// terminate has Auto Scaling take the instance, and the built function drain it if this is that half.
func (r *run) terminate(ctx context.Context) (err error) {
	if !r.drained {
		r.AWS.Terminate(r.Target.ID)
		return nil
	}
	function, err := r.Function(context.WithoutCancel(ctx), r.Configuration())
	if err != nil {
		return err
	}
	defer function.Close()
	if r.report, err = r.Drain(ctx, function, r.Target); err != nil {
		return err
	}
	return r.markDrainSteps(function)
}

// markDrainSteps marks what the function did, from the API server's audit log and from the report.
func (r *run) markDrainSteps(function *env.Function) error {
	requests, err := r.Lab.Audit().By(function.User)
	if err != nil {
		return err
	}
	for _, request := range requests {
		if request.Verb == "patch" && request.Resource == "nodes" && request.Name == r.Target.Node {
			r.mark(request.Time, "cordon", false)
		}
	}
	for _, p := range r.report.Pods {
		if !p.EvictedAt.IsZero() {
			r.mark(p.EvictedAt, "evict "+kind(p.Name), false)
		}
	}
	for _, c := range r.AWS.Completions(r.Target.ID) {
		r.mark(c.At, "complete", false)
	}
	return nil
}

// kind is a pod's name without what its controllers appended.
func kind(pod string) string { return strings.Split(pod, "-")[0] }

func (r *run) mark(at time.Time, what string, fatal bool) {
	r.marks = append(r.marks, picture.Mark{At: at.Sub(r.began), What: what, Fatal: fatal})
}
