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
	// hold is how long a worker's transaction lasts, and think how long the worker then pauses.
	hold  = "100ms"
	think = "20ms"
	// sampling is the time between samples: fine enough for a picture of a minute.
	sampling = 200 * time.Millisecond
	// hangsAfter is the time without a commit after which a worker with transactions of 100 ms counts as hanging, from its last
	// commit on.
	hangsAfter = 5 * time.Second
)

// run is one run, with or without quiesce.
type run struct {
	*poolers.Fixture
	what    string // that the terminated instance has
	version string // of it
	drained bool

	options       poolers.Options
	prepare       func(context.Context) error // what the function needs; nil: nothing
	configuration func() string               // of the function
	closings      []string                    // what changes of the node do, in order
	markSteps     func(*env.Function)         // beyond those that every drain has; nil: none

	began      time.Time // when sampling started
	terminated time.Time // when Auto Scaling terminated the instance
	died       time.Time // when the node died
	samples    []picture.Sample
	marks      []picture.Mark
	probesPass bool // no probe of a worker has failed

	report    termination.Report
	results   poolers.Results
	keepalive time.Duration // until the kernel first probes a dead pooler
}

// poolerRun is a run in which the node of a pgbouncer of this version vanishes.
func poolerRun(version string, drained bool) *run {
	r := &run{what: "pgbouncer", version: version, drained: drained, closings: []string{"cordon"}}
	r.options = poolers.Options{
		Name: withOrWithout(drained) + "-" + strings.ReplaceAll(version, ".", "-"), Poolers: database.Options{Version: version},
	}
	r.configuration = func() string { return r.Configuration() }
	return r
}

// runOnce does one run.
func runOnce(ctx context.Context, pool *poolers.NodePool, o options, r *run) (*run, error) {
	logf("%s %s, %s quiesce", r.what, r.version, withOrWithout(r.drained))
	r.probesPass, r.options.NoHook, r.options.Flags = true, !r.drained, [][]string{{"-hold=" + hold, "-think=" + think}}
	var err error
	if r.Fixture, err = poolers.SetUp(ctx, pool, r.options); err != nil {
		return nil, fmt.Errorf("set up: %w", err)
	}
	if r.prepare != nil {
		if err := r.prepare(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.watchRun(ctx, o); err != nil {
		return nil, err
	}
	if r.results, err = r.Finish(ctx, hangsAfter); err != nil {
		return nil, fmt.Errorf("compare the results: %w", err)
	}
	if r.keepalive, err = r.keepaliveTime(ctx); err != nil {
		return nil, fmt.Errorf("read the workers' keepalive timers: %w", err)
	}
	return r, r.TearDown(ctx)
}

// watchRun terminates the instance while it samples the workers.
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

// terminate makes Auto Scaling terminate the instance and, with quiesce, lets the built function drain it.
func (r *run) terminate(ctx context.Context) (err error) {
	if !r.drained {
		r.AWS.Terminate(r.Target.ID)
		return nil
	}
	function, err := r.Function(context.WithoutCancel(ctx), r.configuration())
	if err != nil {
		return err
	}
	defer function.Close()
	if r.report, err = r.Drain(ctx, function, r.Target); err != nil {
		return err
	}
	return r.markDrainSteps(function)
}

// markDrainSteps marks the function's actions, from the API server's audit log and the report.
func (r *run) markDrainSteps(function *env.Function) error {
	requests, err := r.Lab.Audit().By(function.User)
	if err != nil {
		return err
	}
	closings := r.closings
	for _, request := range requests {
		if request.Verb == "patch" && request.Resource == "nodes" && request.Name == r.Target.Node {
			what, rest := closings[0], closings[1:]
			r.mark(request.Time, what, false)
			if len(rest) > 0 {
				closings = rest
			}
		}
	}
	if r.markSteps != nil {
		r.markSteps(function)
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

// kind returns a pod's name without the suffix of its controllers.
func kind(pod string) string { return strings.Split(pod, "-")[0] }

func (r *run) mark(at time.Time, what string, fatal bool) {
	r.marks = append(r.marks, picture.Mark{At: at.Sub(r.began), What: what, Fatal: fatal})
}
