package main

import (
	"context"
	"errors"
	"regexp"
	"time"

	"quiesce/test/story/picture"
	"quiesce/test/worker/ledger"
)

const (
	// sampling is what a picture of a minute shows of a change.
	sampling = 200 * time.Millisecond
	// hangsAfter is when a worker whose transaction takes 30 ms is said to hang.
	hangsAfter = 5 * time.Second
)

// watch samples the workers until ctx ends.
func (t *tale) watch(ctx context.Context) error {
	tick := time.NewTicker(sampling)
	defer tick.Stop()
	committed, err := t.sample(ctx, -1)
	for err == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			committed, err = t.sample(ctx, committed)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// sample looks at the workers once, given how much was committed before; the first look has nothing before it.
func (t *tale) sample(ctx context.Context, before int) (committed int, err error) {
	s, err := t.snapshots(ctx)
	if err != nil {
		return 0, err
	}
	for _, w := range s.Workers {
		committed += w.Committed
	}
	if before >= 0 {
		t.samples = append(t.samples, picture.Sample{
			At: time.Since(t.began), Commits: committed - before, Hanging: ledger.Hanging(s, hangsAfter),
		})
	}
	green, err := t.db.WorkersAreGreen(ctx)
	t.green = t.green && green
	return committed, err
}

// snapshots are those of all crews as one.
func (t *tale) snapshots(ctx context.Context) (all ledger.Snapshot, err error) {
	for _, c := range t.crews {
		s, err := c.Snapshot(ctx)
		if err != nil {
			return all, err
		}
		all.Now, all.Workers = s.Now, append(all.Workers, s.Workers...)
	}
	return all, nil
}

// keepalives are the timers of established connections, such as timer:(keepalive,119min,0)
// (https://man7.org/linux/man-pages/man8/ss.8.html).
var keepalives = regexp.MustCompile(`timer:\(keepalive,([0-9]+)min`)

// kernelPatience asks the workers' kernel how long it will wait, at most, before it first asks whether the pooler of a connection
// that hangs is there at all.
func (t *tale) kernelPatience(ctx context.Context) (longest time.Duration, err error) {
	if len(t.hanging) == 0 {
		return 0, nil
	}
	const script = `for n in /run/netns/*; do nsenter --net=$n ss --no-header --numeric --tcp --options state established dport = :6432; done`
	cmd, err := t.stage.Lab.Inside(ctx, t.instances[0].Node, "sh", "-c", script)
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

// wait waits, or says why not.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
