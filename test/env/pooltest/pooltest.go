// Package pooltest puts workers to the test: a database, its poolers on machines of an Auto Scaling group, workers that run
// transactions through them, and an instance under one of the poolers that goes. The story, the end-to-end tests and the
// benchmark of poolers differ in what they ask of it.
package pooltest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/env/database"
	"quiesce/test/env/worker/ledger"
)

const (
	// settleTime is how long workers get, at most and beyond their own pace, to end their last transactions before the books are
	// compared: those that hang would take hours.
	settleTime = 3 * time.Second
	// lookInterval paces looks at Auto Scaling: the instance dies that much later, at most, than it could.
	lookInterval = 20 * time.Millisecond
	// inService is an instance's lifecycle state while nobody wants it to go.
	inService = "InService"
	// warmUp is how much every worker must have done before the trial begins.
	warmUp = 20
)

// Trial is one set-up: a group and a namespace of its own, so that trials do not meet.
type Trial struct {
	Name   string         // of the group and the namespace
	Base   env.Instance   // where the database and the workers are
	Pool   []env.Instance // where poolers may run: one more than there are, as Auto Scaling launches one before it takes one
	Victim env.Instance   // has a pooler
	DB     *database.Database
	Crews  []*database.Crew

	*Ground
	dead map[string]bool // instances
}

// Options says what a trial should be like.
type Options struct {
	Name     string
	Hookless bool // Auto Scaling takes instances away without asking anybody
	Poolers  database.Options
	Crews    int        // of five workers each; default DefaultCrews
	Flags    [][]string // of the workers, beyond their pace, crew by crew in turn
	First    []string   // flags of one more crew of one worker, which is hired first; none: there is none
}

const (
	// DefaultCrews is how many there are where nobody says otherwise.
	DefaultCrews = 4
	crewStrength = 5
)

// SetUp makes the database, the poolers and the workers, all at work on return. What it made before it failed is taken away
// again.
func SetUp(ctx context.Context, g *Ground, o Options) (*Trial, error) {
	t := &Trial{Name: o.Name, Ground: g, dead: map[string]bool{}}
	if err := t.setUp(ctx, o); err != nil {
		return nil, errors.Join(err, t.TearDown(context.WithoutCancel(ctx)))
	}
	return t, nil
}

func (t *Trial) setUp(ctx context.Context, o Options) (err error) {
	if err := t.join(ctx, o); err != nil {
		return fmt.Errorf("add machines: %w", err)
	}
	o.Poolers.Namespace, o.Poolers.Base, o.Poolers.Group = o.Name, baseGroup, o.Name
	if t.DB, err = database.Deploy(ctx, t.Lab, o.Poolers); err != nil {
		return err
	}
	if err := t.hire(ctx, o); err != nil {
		return err
	}
	if err := t.choose(ctx); err != nil {
		return err
	}
	return t.AwaitWork(ctx, warmUp)
}

func (t *Trial) join(ctx context.Context, o Options) (err error) {
	if t.Base, err = t.base(ctx); err != nil {
		return err
	}
	form := t.Group
	if o.Hookless {
		form = t.GroupWithoutHook
	}
	if _, err := form(ctx, t.Name, 0); err != nil {
		return err
	}
	nodes := max(o.Poolers.Poolers, database.DefaultPoolers)
	if !o.Poolers.Daemon {
		nodes++
	}
	t.Pool, err = t.take(ctx, t.Name, nodes)
	return err
}

// pace makes 20 workers do 250 transactions a second: what leaves two processors, which have a whole cluster to run, enough time
// to do it in.
var pace = []string{"-hold=60ms", "-think=20ms"}

// hire takes all crews on at once.
func (t *Trial) hire(ctx context.Context, o Options) error {
	if o.Crews == 0 {
		o.Crews = DefaultCrews
	}
	t.Crews = make([]*database.Crew, o.Crews, o.Crews+1)
	faults := make([]error, o.Crews+1)
	var hiring sync.WaitGroup
	for i := range t.Crews {
		flags := pace
		if len(o.Flags) > 0 {
			flags = slices.Concat(pace, o.Flags[i%len(o.Flags)])
		}
		hiring.Go(func() { t.Crews[i], faults[i] = t.DB.Hire(ctx, crewStrength, flags...) })
	}
	if o.First != nil {
		var loner *database.Crew
		loner, faults[o.Crews] = t.DB.Hire(ctx, 1, o.First...)
		defer func() { t.Crews = append(t.Crews, loner) }()
	}
	hiring.Wait()
	return errors.Join(faults...)
}

// choose takes an instance that a pooler runs on.
func (t *Trial) choose(ctx context.Context) error {
	pods, err := t.DB.PoolerPods(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(t.Pool, func(i env.Instance) bool { return i.Node == pods[0].Spec.NodeName })
	if i < 0 {
		return fmt.Errorf("pooler %s is on %s, which is none of ours", pods[0].Name, pods[0].Spec.NodeName)
	}
	t.Victim = t.Pool[i]
	return nil
}

// AwaitWork waits until every worker has committed n transactions more than when it was asked.
func (t *Trial) AwaitWork(ctx context.Context, n int) error {
	first, err := t.Snapshot(ctx)
	if err != nil {
		return err
	}
	for {
		now, err := t.Snapshot(ctx)
		if err != nil {
			return err
		}
		behind := slices.ContainsFunc(now.Workers, func(w ledger.Worker) bool {
			i := slices.IndexFunc(first.Workers, func(before ledger.Worker) bool { return before.Worker == w.Worker })
			return w.Pace < stragglerPace && w.Committed < first.Workers[i].Committed+n
		})
		if !behind {
			return nil
		}
		if err := Wait(ctx, lookInterval); err != nil {
			return fmt.Errorf("wait for the workers to work: %w", err)
		}
	}
}

// Snapshot is that of all crews as one.
func (t *Trial) Snapshot(ctx context.Context) (all ledger.Snapshot, err error) {
	for _, c := range t.Crews {
		s, err := c.Snapshot(ctx)
		if err != nil {
			return all, err
		}
		all.Now, all.Workers = s.Now, append(all.Workers, s.Workers...)
	}
	return all, nil
}

// Configuration is the function's, with these settings of the poolers' escort. Without any it has their console's credentials.
func (t *Trial) Configuration(settings ...string) string {
	if len(settings) == 0 {
		settings = []string{t.Credentials()}
	}
	return fmt.Sprintf(`autoScalingGroups: [%[1]s]
mode: drain
phases:
  - name: poolers
    match: {namespaces: [%[1]s]}
    escort: {pgbouncer: {%[2]s}}
  - name: workloads
`, t.Name, strings.Join(settings, ", "))
}

// Credentials are the setting that names those of the poolers' console.
func (t *Trial) Credentials() string {
	return fmt.Sprintf("secretRef: {namespace: %s, name: pgbouncer-admin}", t.Name)
}

// Forget has the workers forget their stalls so far. The longest are from when they all connected at once.
func (t *Trial) Forget(ctx context.Context) error {
	for _, c := range t.Crews {
		if err := c.Forget(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Drain has Auto Scaling terminate the victim and gives the event to the function, as Lambda would.
func (t *Trial) Drain(ctx context.Context, function *env.Function, i env.Instance) (report termination.Report, err error) {
	result, err := function.Invoke(ctx, t.AWS.Terminate(i.ID)[0].Body)
	if err != nil {
		return report, err
	}
	if result.ErrorType != "" {
		return report, fmt.Errorf("the function ended in error %s: %s", result.ErrorType, result.ErrorMessage)
	}
	if err := json.Unmarshal(result.Payload, &report); err != nil {
		return report, fmt.Errorf("read the report: %w", err)
	}
	return report, nil
}

// Die waits until Auto Scaling has let go of the instance, and has its machine vanish.
func (t *Trial) Die(ctx context.Context, i env.Instance) error {
	for t.AWS.State(i.ID) != "" {
		if err := Wait(ctx, lookInterval); err != nil {
			return err
		}
	}
	t.dead[i.ID] = true
	return t.Lab.Kill(ctx, i.Node)
}

// Books are what workers believe, held against what the database has.
type Books struct {
	At      time.Time
	Workers []ledger.Worker
	Hanging []int // workers, as of At
	Balance ledger.Balance
}

// Settle has the workers stop and compares the books. Workers are said to hang after the given time without a success.
func (t *Trial) Settle(ctx context.Context, hangsAfter time.Duration) (b Books, err error) {
	s, err := t.Snapshot(ctx)
	if err != nil {
		return b, err
	}
	b.Hanging = ledger.Hanging(s, hangsAfter)
	for _, c := range t.Crews {
		if err := c.Dismiss(ctx); err != nil {
			return b, err
		}
	}
	last, err := t.stopped(ctx)
	if err != nil {
		return b, err
	}
	rows, err := t.DB.Rows(ctx)
	if err != nil {
		return b, err
	}
	b.At, b.Workers, b.Balance = last.Now, last.Workers, ledger.Settle(last.Workers, rows)
	return b, nil
}

// stopped is the first snapshot of workers that have all stopped, or the last one in time.
func (t *Trial) stopped(ctx context.Context) (ledger.Snapshot, error) {
	began := time.Now()
	for {
		s, err := t.Snapshot(ctx)
		late := time.Since(began) - settleTime
		busy := slices.ContainsFunc(s.Workers, func(w ledger.Worker) bool { return w.State != ledger.Stopped && w.Pace > late })
		if err != nil || !busy {
			return s, err
		}
		if err := Wait(ctx, lookInterval); err != nil {
			return s, err
		}
	}
}

// TearDown takes away what the trial ran, and gives the machines back that it left alive.
func (t *Trial) TearDown(ctx context.Context) error {
	if t.DB != nil {
		if err := t.DB.Remove(ctx); err != nil {
			return err
		}
	}
	for _, i := range t.Pool {
		if err := t.leave(ctx, i); err != nil {
			return fmt.Errorf("leave node %s: %w", i.Node, err)
		}
	}
	return nil
}

// leave gives a machine back, or removes what is left of one that is dead or about to be.
func (t *Trial) leave(ctx context.Context, i env.Instance) error {
	switch {
	case t.AWS.State(i.ID) == inService:
		return t.giveBack(ctx, i)
	case !t.dead[i.ID]:
		if err := t.Lab.Kill(ctx, i.Node); err != nil {
			return err
		}
	}
	return t.Lab.RemoveNode(ctx, i.Node)
}

// Sum adds up what the workers say.
func (b Books) Sum(of func(ledger.Worker) int) (sum int) {
	for _, w := range b.Workers {
		sum += of(w)
	}
	return sum
}

// Refused are the connects that failed.
func (b Books) Refused() int { return b.Sum(func(w ledger.Worker) int { return w.ConnectErrors }) }

// Closed are the connections that were closed between transactions, as the workers noticed.
func (b Books) Closed() int { return b.Sum(func(w ledger.Worker) int { return w.BeginErrors }) }

// ClosedOnCareful are those of workers that recycle or validate their connections so as not to notice.
func (b Books) ClosedOnCareful() int {
	return b.Sum(func(w ledger.Worker) int {
		if !w.Careful {
			return 0
		}
		return w.BeginErrors
	})
}

// Cut are the transactions that were, those of workers that hang among them.
func (b Books) Cut() int { return b.Balance.Aborted + b.Balance.Ambiguous + b.Balance.InFlight }

// Amiss are the transactions that the database and the workers do not agree on.
func (b Books) Amiss() int { return b.Balance.Lost + b.Balance.Repeated + b.Balance.Surprises }

// stragglerPace is what no worker but a straggler takes for a round.
const stragglerPace = time.Second

// LongestStall is that of a worker that does not hang and is no straggler, its own pace left out.
func (b Books) LongestStall() time.Duration { return LongestStall(b.Workers) }

// LongestStall is that of a worker that does not hang and is no straggler, its own pace left out.
func LongestStall(workers []ledger.Worker) (longest time.Duration) {
	for _, w := range workers {
		if w.InFlight == 0 && w.Pace < stragglerPace {
			longest = max(longest, w.LongestStall-w.Pace)
		}
	}
	return longest
}

// Wait waits, or says why not.
func Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
