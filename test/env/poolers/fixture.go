// Package pooltest puts workers to the test: a database, its poolers on machines of an Auto Scaling group, workers that run
// transactions through them, and an instance under one of the poolers that goes. The story, the end-to-end tests and the
// benchmark of poolers differ in what they ask of it.
package poolers

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
	"quiesce/test/env/worker/journal"
)

const (
	// stopTimeout is how long workers get, at most and beyond their own pace, to end their last transactions before the books are
	// compared: those that hang would take hours.
	stopTimeout = 3 * time.Second
	// pollInterval paces looks at Auto Scaling: the instance dies that much later, at most, than it could.
	pollInterval = 20 * time.Millisecond
	// inService is an instance's lifecycle state while nobody wants it to go.
	inService = "InService"
	// warmUpCommits is how much every worker must have done before the trial begins.
	warmUpCommits = 20
)

// Fixture is one set-up: a group and a namespace of its own, so that trials do not meet.
type Fixture struct {
	Name    string         // of the group and the namespace
	Base    env.Instance   // where the database and the workers are
	Nodes   []env.Instance // where poolers may run: one more than there are, as Auto Scaling launches one before it takes one
	Target  env.Instance   // has a pooler
	DB      *database.Database
	Workers []*database.WorkerGroup

	*NodePool
	terminated map[string]bool // instances
}

// Options says what a trial should be like.
type Options struct {
	Name         string
	NoHook       bool // Auto Scaling takes instances away without asking anybody
	Poolers      database.Options
	WorkerGroups int        // of five workers each; default DefaultCrews
	Flags        [][]string // of the workers, beyond their pace, crew by crew in turn
	ExtraWorker  []string   // flags of one more crew of one worker, which is hired first; none: there is none
}

const (
	// DefaultWorkerGroups is how many there are where nobody says otherwise.
	DefaultWorkerGroups = 4
	workersPerGroup     = 5
)

// SetUp makes the database, the poolers and the workers, all at work on return. What it made before it failed is taken away
// again.
func SetUp(ctx context.Context, g *NodePool, o Options) (*Fixture, error) {
	t := &Fixture{Name: o.Name, NodePool: g, terminated: map[string]bool{}}
	if err := t.setUp(ctx, o); err != nil {
		return nil, errors.Join(err, t.TearDown(context.WithoutCancel(ctx)))
	}
	return t, nil
}

func (t *Fixture) setUp(ctx context.Context, o Options) (err error) {
	if err := t.addNodes(ctx, o); err != nil {
		return fmt.Errorf("add machines: %w", err)
	}
	o.Poolers.Namespace, o.Poolers.Base, o.Poolers.Group = o.Name, baseGroup, o.Name
	if t.DB, err = database.Deploy(ctx, t.Lab, o.Poolers); err != nil {
		return err
	}
	if err := t.startWorkers(ctx, o); err != nil {
		return err
	}
	if err := t.chooseTarget(ctx); err != nil {
		return err
	}
	return t.AwaitCommits(ctx, warmUpCommits)
}

func (t *Fixture) addNodes(ctx context.Context, o Options) (err error) {
	if t.Base, err = t.base(ctx); err != nil {
		return err
	}
	form := t.Group
	if o.NoHook {
		form = t.GroupWithoutHook
	}
	if _, err := form(ctx, t.Name, 0); err != nil {
		return err
	}
	nodes := max(o.Poolers.Poolers, database.DefaultPoolers)
	if !o.Poolers.Daemon {
		nodes++
	}
	t.Nodes, err = t.acquire(ctx, t.Name, nodes)
	return err
}

// pace makes 20 workers do 250 transactions a second: what leaves two processors, which have a whole cluster to run, enough time
// to do it in.
var pace = []string{"-hold=60ms", "-think=20ms"}

// startWorkers takes all crews on at once.
func (t *Fixture) startWorkers(ctx context.Context, o Options) error {
	if o.WorkerGroups == 0 {
		o.WorkerGroups = DefaultWorkerGroups
	}
	t.Workers = make([]*database.WorkerGroup, o.WorkerGroups, o.WorkerGroups+1)
	errs := make([]error, o.WorkerGroups+1)
	var hiring sync.WaitGroup
	for i := range t.Workers {
		flags := pace
		if len(o.Flags) > 0 {
			flags = slices.Concat(pace, o.Flags[i%len(o.Flags)])
		}
		hiring.Go(func() { t.Workers[i], errs[i] = t.DB.StartWorkers(ctx, workersPerGroup, flags...) })
	}
	if o.ExtraWorker != nil {
		var loner *database.WorkerGroup
		loner, errs[o.WorkerGroups] = t.DB.StartWorkers(ctx, 1, o.ExtraWorker...)
		defer func() { t.Workers = append(t.Workers, loner) }()
	}
	hiring.Wait()
	return errors.Join(errs...)
}

// chooseTarget takes an instance that a pooler runs on.
func (t *Fixture) chooseTarget(ctx context.Context) error {
	pods, err := t.DB.PoolerPods(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(t.Nodes, func(i env.Instance) bool { return i.Node == pods[0].Spec.NodeName })
	if i < 0 {
		return fmt.Errorf("pooler %s is on %s, which is none of ours", pods[0].Name, pods[0].Spec.NodeName)
	}
	t.Target = t.Nodes[i]
	return nil
}

// AwaitCommits waits until every worker has committed n transactions more than when it was asked.
func (t *Fixture) AwaitCommits(ctx context.Context, n int) error {
	first, err := t.Snapshot(ctx)
	if err != nil {
		return err
	}
	for {
		now, err := t.Snapshot(ctx)
		if err != nil {
			return err
		}
		behind := slices.ContainsFunc(now.Workers, func(w journal.Worker) bool {
			i := slices.IndexFunc(first.Workers, func(before journal.Worker) bool { return before.Worker == w.Worker })
			return w.Pace < minStragglerPace && w.Committed < first.Workers[i].Committed+n
		})
		if !behind {
			return nil
		}
		if err := Wait(ctx, pollInterval); err != nil {
			return fmt.Errorf("wait for the workers to work: %w", err)
		}
	}
}

// Snapshot is that of all crews as one.
func (t *Fixture) Snapshot(ctx context.Context) (all journal.Snapshot, err error) {
	for _, c := range t.Workers {
		s, err := c.Snapshot(ctx)
		if err != nil {
			return all, err
		}
		all.Now, all.Workers = s.Now, append(all.Workers, s.Workers...)
	}
	return all, nil
}

// Configuration is the function's, with these settings of the poolers' escort. Without any it has their console's credentials.
func (t *Fixture) Configuration(settings ...string) string {
	if len(settings) == 0 {
		settings = []string{t.Credentials()}
	}
	return fmt.Sprintf(`autoScalingGroups: [%[1]s]
phases:
  - name: poolers
    match: {namespaces: [%[1]s]}
    escort: {pgbouncer: {%[2]s}}
  - name: workloads
`, t.Name, strings.Join(settings, ", "))
}

// Credentials are the setting that names those of the poolers' console.
func (t *Fixture) Credentials() string {
	return fmt.Sprintf("secretRef: {namespace: %s, name: pgbouncer-admin}", t.Name)
}

// ResetStalls has the workers forget their stalls so far. The longest are from when they all connected at once.
func (t *Fixture) ResetStalls(ctx context.Context) error {
	for _, c := range t.Workers {
		if err := c.ResetStalls(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Drain has Auto Scaling terminate the target and gives the event to the function, as Lambda would.
func (t *Fixture) Drain(ctx context.Context, function *env.Function, i env.Instance) (report termination.Report, err error) {
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

// AwaitTermination waits until Auto Scaling has let go of the instance, and has its machine vanish.
func (t *Fixture) AwaitTermination(ctx context.Context, i env.Instance) error {
	for t.AWS.State(i.ID) != "" {
		if err := Wait(ctx, pollInterval); err != nil {
			return err
		}
	}
	t.terminated[i.ID] = true
	return t.Lab.Kill(ctx, i.Node)
}

// Results are what workers believe, held against what the database has.
type Results struct {
	At         time.Time
	Workers    []journal.Worker
	Hanging    []int // workers, as of At
	Comparison journal.Comparison
}

// Finish has the workers stop and compares the books. Workers are said to hang after the given time without a success.
func (t *Fixture) Finish(ctx context.Context, hangsAfter time.Duration) (b Results, err error) {
	s, err := t.Snapshot(ctx)
	if err != nil {
		return b, err
	}
	b.Hanging = journal.Hanging(s, hangsAfter)
	for _, c := range t.Workers {
		if err := c.Stop(ctx); err != nil {
			return b, err
		}
	}
	last, err := t.awaitStopped(ctx)
	if err != nil {
		return b, err
	}
	rows, err := t.DB.Rows(ctx)
	if err != nil {
		return b, err
	}
	b.At, b.Workers, b.Comparison = last.Now, last.Workers, journal.Compare(last.Workers, rows)
	return b, nil
}

// awaitStopped is the first snapshot of workers that have all stopped, or the last one in time.
func (t *Fixture) awaitStopped(ctx context.Context) (journal.Snapshot, error) {
	began := time.Now()
	for {
		s, err := t.Snapshot(ctx)
		late := time.Since(began) - stopTimeout
		busy := slices.ContainsFunc(s.Workers, func(w journal.Worker) bool { return w.State != journal.Stopped && w.Pace > late })
		if err != nil || !busy {
			return s, err
		}
		if err := Wait(ctx, pollInterval); err != nil {
			return s, err
		}
	}
}

// TearDown takes away what the trial ran, and gives the machines back that it left alive.
func (t *Fixture) TearDown(ctx context.Context) error {
	if t.DB != nil {
		if err := t.DB.Remove(ctx); err != nil {
			return err
		}
	}
	for _, i := range t.Nodes {
		if err := t.releaseNode(ctx, i); err != nil {
			return fmt.Errorf("leave node %s: %w", i.Node, err)
		}
	}
	return nil
}

// releaseNode gives a machine back, or removes what is left of one that is dead or about to be.
func (t *Fixture) releaseNode(ctx context.Context, i env.Instance) error {
	switch {
	case t.AWS.State(i.ID) == inService:
		return t.release(ctx, i)
	case !t.terminated[i.ID]:
		if err := t.Lab.Kill(ctx, i.Node); err != nil {
			return err
		}
	}
	return t.Lab.RemoveNode(ctx, i.Node)
}

// Sum adds up what the workers say.
func (b Results) Sum(of func(journal.Worker) int) (sum int) {
	for _, w := range b.Workers {
		sum += of(w)
	}
	return sum
}

// Refused are the connects that failed.
func (b Results) Refused() int { return b.Sum(func(w journal.Worker) int { return w.ConnectErrors }) }

// Closed are the connections that were closed between transactions, as the workers noticed.
func (b Results) Closed() int { return b.Sum(func(w journal.Worker) int { return w.BeginErrors }) }

// ClosedOnCareful are those of workers that recycle or validate their connections so as not to notice.
func (b Results) ClosedOnCareful() int {
	return b.Sum(func(w journal.Worker) int {
		if !w.Careful {
			return 0
		}
		return w.BeginErrors
	})
}

// Interrupted are the transactions that were, those of workers that hang among them.
func (b Results) Interrupted() int {
	return b.Comparison.Aborted + b.Comparison.Ambiguous + b.Comparison.InFlight
}

// Inconsistent are the transactions that the database and the workers do not agree on.
func (b Results) Inconsistent() int {
	return b.Comparison.Lost + b.Comparison.Repeated + b.Comparison.Unexpected
}

// minStragglerPace is what no worker but a straggler takes for a round.
const minStragglerPace = time.Second

// LongestStall is that of a worker that does not hang and is no straggler, its own pace left out.
func (b Results) LongestStall() time.Duration { return LongestStall(b.Workers) }

// LongestStall is that of a worker that does not hang and is no straggler, its own pace left out.
func LongestStall(workers []journal.Worker) (longest time.Duration) {
	for _, w := range workers {
		if w.InFlight == 0 && w.Pace < minStragglerPace {
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
