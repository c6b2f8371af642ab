package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"quiesce/internal/termination"
	"quiesce/test/database"
	"quiesce/test/stage"
	"quiesce/test/story/picture"
	"quiesce/test/worker/ledger"
)

const (
	crews        = 4
	crewStrength = 5
	// poolNodes are where poolers may run: one each, and one that Auto Scaling launched before it takes another away, as it
	// does when it balances zones.
	poolNodes = 3
	// settleTime is how long workers get to end their last transactions before the books are compared: a transaction takes
	// 30 ms, and those that hang would take hours.
	settleTime = 3 * time.Second
	// lookInterval paces looks at Auto Scaling: the instance dies that much later, at most, than it could.
	lookInterval = 20 * time.Millisecond
)

// tale is one half of the story for one version of pgbouncer.
type tale struct {
	version string
	drained bool

	stage  *stage.Stage
	group  string
	victim stage.Instance

	instances []stage.Instance // the first is the base, where the database and the workers are
	db        *database.Database
	crews     []*database.Crew

	began      time.Time // of the samples
	terminated time.Time // when Auto Scaling decided
	died       time.Time // the node
	samples    []picture.Sample
	marks      []picture.Mark

	report   termination.Report
	green    bool      // no probe of a worker ever failed
	settled  time.Time // when the books were compared
	workers  []ledger.Worker
	balance  ledger.Balance
	hanging  []int
	patience time.Duration // until the kernel first asks whether a pooler that is gone is there
}

// tell plays one half.
func tell(ctx context.Context, s *stage.Stage, o options, version string, drained bool) (*tale, error) {
	t := &tale{
		version: version, drained: drained, stage: s, green: true,
		group: with(drained) + "-" + strings.ReplaceAll(version, ".", "-"),
	}
	say("pgbouncer %s, %s quiesce", version, with(drained))
	if err := t.setUp(ctx); err != nil {
		return nil, fmt.Errorf("set up: %w", err)
	}
	if err := t.play(ctx, o); err != nil {
		return nil, err
	}
	if err := t.settle(ctx); err != nil {
		return nil, fmt.Errorf("compare the books: %w", err)
	}
	return t, t.tearDown(ctx)
}

func (t *tale) setUp(ctx context.Context) error {
	began := time.Now()
	base, err := t.stage.GroupWithoutHook(ctx, t.base(), 1)
	if err != nil {
		return err
	}
	join := t.stage.GroupWithoutHook
	if t.drained {
		join = t.stage.Group
	}
	pool, err := join(ctx, t.group, poolNodes)
	if err != nil {
		return err
	}
	t.instances = append(base, pool...)
	say("  %d machines are up after %s", len(t.instances), time.Since(began).Round(100*time.Millisecond))
	t.db, err = database.Deploy(ctx, t.stage.Lab, database.Options{
		Namespace: t.group, Base: t.base(), Group: t.group, Version: t.version,
	})
	if err != nil {
		return err
	}
	for range crews {
		crew, err := t.db.Hire(ctx, crewStrength)
		if err != nil {
			return err
		}
		t.crews = append(t.crews, crew)
	}
	return t.chooseVictim(ctx, pool)
}

func (t *tale) base() string { return t.group + "-base" }

// chooseVictim takes an instance that a pooler runs on.
func (t *tale) chooseVictim(ctx context.Context, instances []stage.Instance) error {
	pods, err := t.db.PoolerPods(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(instances, func(i stage.Instance) bool { return i.Node == pods[0].Spec.NodeName })
	if i < 0 {
		return fmt.Errorf("pooler %s is on %s, which is none of ours", pods[0].Name, pods[0].Spec.NodeName)
	}
	t.victim = instances[i]
	return nil
}

// play has the instance terminated while somebody watches the workers.
func (t *tale) play(ctx context.Context, o options) error {
	watching, stop := context.WithCancel(ctx)
	watched := make(chan error, 1)
	t.began = time.Now()
	go func() { watched <- t.watch(watching) }()
	err := t.end(ctx, o)
	stop()
	return errors.Join(err, <-watched)
}

func (t *tale) end(ctx context.Context, o options) error {
	if err := wait(ctx, o.warmUp); err != nil {
		return err
	}
	t.terminated = time.Now()
	t.mark(t.terminated, "terminated", false)
	events := t.stage.AWS.Terminate(t.victim.ID)
	if t.drained {
		if err := t.drain(ctx, events[0].Body); err != nil {
			return err
		}
	}
	if err := t.die(ctx); err != nil {
		return err
	}
	return wait(ctx, o.observe)
}

// drain gives the event to the function, as Lambda would.
func (t *tale) drain(ctx context.Context, event []byte) error {
	function, err := t.stage.Function(context.WithoutCancel(ctx), fmt.Sprintf("autoScalingGroups: [%s]\n", t.group))
	if err != nil {
		return err
	}
	defer function.Close()
	result, err := function.Invoke(ctx, event)
	if err != nil {
		return err
	}
	if result.ErrorType != "" {
		return fmt.Errorf("the function ended in error %s: %s", result.ErrorType, result.ErrorMessage)
	}
	if err := json.Unmarshal(result.Payload, &t.report); err != nil {
		return fmt.Errorf("read the report: %w", err)
	}
	return t.markActs(function)
}

// markActs takes the times of what the function did from the API server's audit log.
func (t *tale) markActs(function *stage.Function) error {
	requests, err := t.stage.Lab.Audit().By(function.User)
	if err != nil {
		return err
	}
	for _, r := range requests {
		switch {
		case r.Verb == "patch" && r.Resource == "nodes" && r.Name == t.victim.Node:
			t.mark(r.Time, "cordon", false)
		case r.Subresource == "eviction" && r.Code < 300:
			t.mark(r.Time, "evict "+kind(r.Name), false)
		}
	}
	for _, c := range t.stage.AWS.Completions(t.victim.ID) {
		t.mark(c.At, "complete", false)
	}
	return nil
}

// kind is a pod's name without what its controllers appended.
func kind(pod string) string { return strings.Split(pod, "-")[0] }

// die waits until Auto Scaling has let go of the instance, and has the machine vanish.
func (t *tale) die(ctx context.Context) error {
	for t.stage.AWS.State(t.victim.ID) != "" {
		if err := wait(ctx, lookInterval); err != nil {
			return err
		}
	}
	t.died = time.Now()
	t.mark(t.died, "node dies", true)
	return t.stage.Lab.Kill(ctx, t.victim.Node)
}

func (t *tale) mark(at time.Time, what string, fatal bool) {
	t.marks = append(t.marks, picture.Mark{At: at.Sub(t.began), What: what, Fatal: fatal})
}

// settle has the workers stop, and holds what they believe against what the database has.
func (t *tale) settle(ctx context.Context) error {
	for _, c := range t.crews {
		if err := c.Dismiss(ctx); err != nil {
			return err
		}
	}
	if err := wait(ctx, settleTime); err != nil {
		return err
	}
	last, err := t.snapshots(ctx)
	if err != nil {
		return err
	}
	t.settled, t.workers = last.Now, last.Workers
	t.hanging = ledger.Hanging(last, hangsAfter)
	if t.patience, err = t.kernelPatience(ctx); err != nil {
		return fmt.Errorf("ask the workers' kernel: %w", err)
	}
	rows, err := t.db.Rows(ctx)
	if err != nil {
		return err
	}
	t.balance = ledger.Settle(t.workers, rows)
	return nil
}

// tearDown takes the half's machines away: the next half has its own.
func (t *tale) tearDown(ctx context.Context) error {
	for _, i := range t.instances {
		if i != t.victim {
			if err := t.stage.Lab.Kill(ctx, i.Node); err != nil {
				return err
			}
		}
		if err := t.stage.Lab.RemoveNode(ctx, i.Node); err != nil {
			return err
		}
	}
	return nil
}
