package main

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"time"

	"quiesce/test/env/worker/journal"
	"quiesce/test/story/picture"
)

// watch samples the workers until ctx ends.
func (r *run) watch(ctx context.Context) error {
	tick := time.NewTicker(sampling)
	defer tick.Stop()
	committed, err := r.sample(ctx, -1)
	for err == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			committed, err = r.sample(ctx, committed)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// sample samples the workers once, given the number of commits before; -1 for the first sample.
func (r *run) sample(ctx context.Context, before int) (committed int, err error) {
	s, err := r.Snapshot(ctx)
	if err != nil {
		return 0, err
	}
	for _, w := range s.Workers {
		committed += w.Committed
	}
	if before >= 0 {
		r.samples = append(r.samples, picture.Sample{At: time.Since(r.began), Commits: committed - before})
		r.markHanging(s)
	}
	green, err := r.DB.WorkersPassProbes(ctx)
	r.probesPass = r.probesPass && green
	return committed, err
}

// markHanging marks every sample since a hanging worker's last commit.
func (r *run) markHanging(s journal.Snapshot) {
	hanging := journal.Hanging(s, hangsAfter)
	for _, w := range s.Workers {
		if !slices.Contains(hanging, w.Worker) {
			continue
		}
		since := w.LastSuccess().Sub(r.began)
		for i := len(r.samples) - 1; i >= 0 && r.samples[i].At > since && !slices.Contains(r.samples[i].Hanging, w.Worker); i-- {
			r.samples[i].Hanging = append(r.samples[i].Hanging, w.Worker)
		}
	}
}

// keepalives matches the timers of established connections, such as timer:(keepalive,119min,0)
// (https://man7.org/linux/man-pages/man8/ss.8.html).
var keepalives = regexp.MustCompile(`timer:\(keepalive,([0-9]+)min`)

// keepaliveTime returns the longest time until the workers' kernel first probes the pooler of a hanging connection.
func (r *run) keepaliveTime(ctx context.Context) (longest time.Duration, err error) {
	if len(r.results.Hanging) == 0 {
		return 0, nil
	}
	const script = `for n in /run/netns/*; do nsenter --net=$n ss --no-header --numeric --tcp --options state established dport = :6432; done`
	cmd, err := r.Lab.Inside(ctx, r.Base.Node, "sh", "-c", script)
	if err != nil {
		return 0, err
	}
	output, err := cmd.Output()
	for _, found := range keepalives.FindAllSubmatch(output, -1) {
		minutes, parsed := time.ParseDuration(string(found[1]) + "m")
		longest, err = max(longest, minutes), errors.Join(err, parsed)
	}
	return longest, err
}
