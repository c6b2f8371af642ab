package termination

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"quiesce/internal/drain"
)

// simInvocation is one invocation. After a crash, its requests have no effect.
type simInvocation struct {
	s      *simulation
	name   string
	sweeps bool
	cancel context.CancelFunc

	crashAfter  int // so many effects; zero: never
	effects     int
	dead        bool
	diedAt      time.Time
	over        bool
	verified    bool
	began       time.Time
	escorting   map[string]bool // pods whose escort is running
	stuck       map[string]bool // pods whose escort it could not undo
	holds       map[string]bool
	notCordoned map[string]bool // instances whose node it could not cordon
	plain       map[string]bool // instances that it drains without escorts
	unleased    map[string]bool // instances whose Lease it could not acquire, for an error
	completed   map[string]bool // with a known answer
	steps       map[string]step
	evictsSince map[string]time.Time // when it asked for the first eviction, by instance
	reports     map[string]Report
	told        map[drain.PodEvent]bool // whose owners it told; without the message
}

// invoke runs one invocation for these messages, or a sweep if there are none.
func (s *simulation) invoke(ctx context.Context, batch []*simMessage) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.invocationTime)
	defer cancel()
	i, records := s.newInvocation(cancel, batch)
	answer, err := i.handler(records).Invoke(ctx, nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	i.over = true
	if i.dead {
		return
	}
	i.checkNothingPaused()
	if err != nil {
		return
	}
	if response, isBatch := answer.(batchResponse); isBatch {
		s.acknowledge(batch, response.Failures)
	}
}

func (s *simulation) newInvocation(cancel context.CancelFunc, batch []*simMessage) (*simInvocation, []Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := &simInvocation{
		s: s, sweeps: len(batch) == 0, name: "sweep", cancel: cancel, began: time.Now(),
		escorting: map[string]bool{}, stuck: map[string]bool{},
		holds: map[string]bool{}, unleased: map[string]bool{}, plain: map[string]bool{}, notCordoned: map[string]bool{}, completed: map[string]bool{}, steps: map[string]step{}, evictsSince: map[string]time.Time{}, reports: map[string]Report{}, told: map[drain.PodEvent]bool{},
	}
	if i.sweeps {
		return i, []Record{{Request: &Request{Action: ActionSweep}}}
	}
	if s.deliveries < len(s.crashes) {
		i.crashAfter = s.crashes[s.deliveries]
	}
	s.deliveries++
	i.name = fmt.Sprintf("invocation %d", s.deliveries)
	records := make([]Record, len(batch))
	for n, l := range batch {
		records[n] = l.record()
	}
	s.later(s.invocationTime, func() { // as Lambda does
		if !i.over && !i.dead {
			s.counts["killed by its timeout"]++
			i.die("timed out")
		}
	})
	return i, records
}

func (i *simInvocation) handler(records []Record) *Handler {
	s := i.s
	drainer := drain.Drainer{Phases: i.phases(), Concurrency: 4, Log: slog.New(slog.DiscardHandler)}
	return &Handler{
		Parse: func([]byte) Delivery { return Delivery{SQS, records} }, EncodeEvent: encode,
		Groups: simAWS{i}, Hooks: simAWS{i}, Queue: simQueue{i}, DLQ: simQueue{i},
		Connect: func(ctx context.Context) (Kubernetes, error) {
			return simCluster{i}, i.ask(ctx, api, func() error { return nil })
		},
		Drainer: drainer, Log: slog.New(reportReader{i}),
		Policy: Policy{
			Owns: func(name string, tags map[string]string) bool {
				return !s.byTag && name == theGroup || s.byTag && tags["ours"] == "yes"
			},
			GroupsByTag: s.byTag, ManageHooks: true, Hook: theHook, OnFailure: s.onFailure, Force: s.force,
			Bounds: s.bounds, OnRebalanceRecommendation: s.onRebalance, OnSpotInterruption: true,
		},
	}
}

// ask is one request. It takes time, and may be refused.
func (i *simInvocation) ask(ctx context.Context, to service, do func() error) error {
	if err := i.wait(ctx); err != nil {
		return err
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	if err := i.refuses(ctx, to); err != nil {
		return err
	}
	return do()
}

// effect is a request that changes something.
func (i *simInvocation) effect(ctx context.Context, to service, what, who string, do func() error) error {
	if err := i.wait(ctx); err != nil {
		return err
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	if err := i.refuses(ctx, to); err != nil {
		return err
	}
	err := do()
	i.s.noteOf(i, what, who, err)
	if i.effects++; i.effects == i.crashAfter {
		i.s.counts["crash"]++
		i.die("crashed")
		i.s.unheardEffects[what+" "+who] = true
		return errCrashed
	}
	if err == nil && i.s.happens("unheard "+what, i.s.answersLost) {
		i.s.counts["answer lost"]++
		i.s.unheardEffects[what+" "+who] = true
		return errUnheard
	}
	return err
}

func (i *simInvocation) wait(ctx context.Context) error {
	if i.s.latency == 0 {
		return ctx.Err()
	}
	return drain.Sleep(ctx, i.s.latency)
}

func (i *simInvocation) refuses(ctx context.Context, to service) error {
	switch since := time.Since(i.s.began); {
	case i.dead:
		return errCrashed
	case ctx.Err() != nil:
		return ctx.Err()
	case slices.ContainsFunc(i.s.outages, func(o outage) bool { return o.of == to && o.from <= since && since < o.to }):
		i.s.counts["refused by an outage of "+to.String()]++
		return errDown
	case to != console && since%throttledEvery < throttledFor && i.s.happens("throttled", i.s.throttled):
		i.s.counts["throttled"]++
		return errRefused
	}
	return nil
}

// die ends the invocation: none of its requests has an effect any more.
func (i *simInvocation) die(why string) {
	i.dead, i.diedAt = true, time.Now()
	i.s.note(i, why, "")
	i.cancel()
}

// reportReader reads the reports from the log: an event from a queue has its report only there.
type reportReader struct{ *simInvocation }

func (l reportReader) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l reportReader) WithGroup(string) slog.Handler      { return l }

func (l reportReader) Handle(_ context.Context, r slog.Record) error {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	r.Attrs(func(a slog.Attr) bool {
		if report, isReport := a.Value.Any().(Report); isReport && !l.dead {
			l.reports[report.InstanceID] = report
			l.s.noteRemaining(report)
			l.s.note(l.simInvocation, r.Message, fmt.Sprintf("%s %s: %s", report.InstanceID, report.Status, report.Reason))
		}
		return true
	})
	return nil
}
