package main

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"quiesce/test/env"
	"quiesce/test/env/database"
	"quiesce/test/env/patroni"
)

// primaryRun is a run in which the node of a PostgreSQL primary vanishes. Three members of Patroni run it, behind two pgbouncers.
func primaryRun(drained bool) *run {
	var cluster *patroni.Cluster
	r := &run{what: "PostgreSQL 17 with Patroni", version: "4.0", drained: drained, closings: []string{"taint", "cordon"}}
	r.options = patroni.PoolerOptions(patroni.Options{Version: r.version, Poolers: database.Options{Version: "1.24"}}, &cluster)
	r.options.Name = withOrWithout(drained) + "-primary"
	r.configuration = func() string { return patroni.Configuration(r.Fixture, "connectVia: podIP") }
	r.prepare = func(ctx context.Context) error {
		root, err := env.Root()
		if err != nil {
			return err
		}
		return cluster.Allow(ctx, root)
	}
	r.markSteps = r.markMove
	return r
}

// markMove marks what the function logged of the move, and the end of the pause.
func (r *run) markMove(function *env.Function) {
	for line := range strings.Lines(function.Output()) {
		var logged struct {
			Time time.Time `json:"time"`
			Msg  string    `json:"msg"`
		}
		if json.Unmarshal([]byte(line), &logged) != nil {
			continue
		}
		switch logged.Msg {
		case "poolers paused":
			r.mark(logged.Time, "PAUSE", false)
			r.mark(logged.Time.Add(r.held()), "RESUME", false)
		case "switchover requested":
			r.mark(logged.Time, "switchover", false)
		}
	}
}

// held returns how long the poolers held clients.
func (r *run) held() (d time.Duration) {
	for _, p := range r.report.Pods {
		if p.Escort != nil {
			d = max(d, time.Duration(p.Escort.HeldBackSeconds*float64(time.Second)))
		}
	}
	return d
}

func (r *run) heldText() string {
	if !r.drained {
		return "-"
	}
	return seconds(r.held())
}

// longestGap returns the longest time in which no worker committed.
func (r *run) longestGap() string {
	var longest, since time.Duration
	for _, s := range r.samples {
		if s.Commits > 0 {
			longest = max(longest, s.At-sampling-since)
			since = s.At
		}
	}
	if len(r.samples) > 0 {
		longest = max(longest, r.samples[len(r.samples)-1].At-since)
	}
	return seconds(longest)
}
