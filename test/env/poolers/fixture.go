// Package poolers makes a test setup: a database, its poolers on instances of an Auto Scaling group, workers that run
// transactions through them, and a target, an instance with a pooler, to terminate. The story, the end-to-end tests and the
// benchmark use it.
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
	"quiesce/test/parts/lab"
)

const (
	// stopTimeout is how long hanging workers may take, beyond their own pace, to finish their last transactions before results are
	// compared. They would take hours.
	stopTimeout = 3 * time.Second
	// pollInterval is the time between checks of Auto Scaling, and the most by which a node is killed too late.
	pollInterval = 20 * time.Millisecond
	// snapshotInterval is the time between looks at the workers, who take seconds for what is waited for. Each look costs a request to each
	// group of them.
	snapshotInterval = 200 * time.Millisecond
	// inService is the lifecycle state of an instance that is not terminating.
	inService = "InService"
	// shutdownTime is how long a terminated node's network lives on: EC2 lets the operating system shut down first, which takes seconds at
	// least. Node proxies of a busy machine may be as late.
	shutdownTime = 3 * time.Second
	// warmUpCommits is how many transactions every worker commits before the setup is complete.
	warmUpCommits = 20
)

// Fixture is one setup with a group and a namespace of its own, so that fixtures do not affect each other.
type Fixture struct {
	Name    string         // of the group and of the namespace
	Base    env.Instance   // has the database and the workers
	Nodes   []env.Instance // of the group: one more than needed, since Auto Scaling launches an instance before it terminates one
	Target  env.Instance   // the instance to terminate; by default it has a pooler
	DB      *database.Database
	Workers []*database.WorkerGroup

	*NodePool
}

// Options configures a fixture.
type Options struct {
	Name         string
	NoHook       bool // the group has no hook: Auto Scaling terminates instances without waiting
	Poolers      database.Options
	WorkerGroups int        // of five workers each; default DefaultWorkerGroups
	WorkerFlags  []string   // additional flags of all workers
	Flags        [][]string // additional flags of the worker groups, in turn
	ExtraWorker  []string   // flags of an additional group of one worker; nil: none

	// Deploy deploys the database with its poolers; default database.Deploy. Another one must also set Nodes, the number of nodes in the
	// group, and NodeOfTarget, which returns the name of the node to terminate.
	Deploy       func(context.Context, *lab.Lab, database.Options) (*database.Database, error)
	Nodes        int
	NodeOfTarget func(context.Context) (string, error)
}

const (
	// DefaultWorkerGroups is the default number of worker groups.
	DefaultWorkerGroups = 4
	workersPerGroup     = 5
)

// SetUp makes the database, the poolers and the workers, and waits until all work. If it fails, it removes what it made.
func SetUp(ctx context.Context, g *NodePool, o Options) (*Fixture, error) {
	t := &Fixture{Name: o.Name, NodePool: g}
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
	if o.Deploy == nil {
		o.Deploy, o.NodeOfTarget = database.Deploy, t.nodeOfPooler
	}
	if t.DB, err = o.Deploy(ctx, t.Lab, o.Poolers); err != nil {
		return err
	}
	if err := t.startWorkers(ctx, o); err != nil {
		return err
	}
	if err := t.AwaitCommits(ctx, warmUpCommits); err != nil {
		return err
	}
	return t.chooseTarget(ctx, o.NodeOfTarget)
}

func (t *Fixture) addNodes(ctx context.Context, o Options) (err error) {
	if t.Base, err = t.BaseNode(ctx); err != nil {
		return err
	}
	makeGroup := t.Group
	if o.NoHook {
		makeGroup = t.GroupWithoutHook
	}
	if _, err := makeGroup(ctx, t.Name, 0); err != nil {
		return err
	}
	if o.Nodes == 0 {
		o.Nodes = max(o.Poolers.Poolers, database.DefaultPoolers)
		if !o.Poolers.Daemon {
			o.Nodes++
		}
	}
	t.Nodes, err = t.Acquire(ctx, t.Name, o.Nodes)
	return err
}

// pace makes 20 workers commit 250 transactions a second. This leaves two cores, which also run a whole cluster, enough time.
var pace = []string{"-hold=60ms", "-think=20ms"}

// startWorkers starts all worker groups at once.
func (t *Fixture) startWorkers(ctx context.Context, o Options) error {
	if o.WorkerGroups == 0 {
		o.WorkerGroups = DefaultWorkerGroups
	}
	t.Workers = make([]*database.WorkerGroup, o.WorkerGroups, o.WorkerGroups+1)
	errs := make([]error, o.WorkerGroups+1)
	var group sync.WaitGroup
	for i := range t.Workers {
		flags := slices.Concat(pace, o.WorkerFlags)
		if len(o.Flags) > 0 {
			flags = append(flags, o.Flags[i%len(o.Flags)]...)
		}
		group.Go(func() { t.Workers[i], errs[i] = t.DB.StartWorkers(ctx, workersPerGroup, flags...) })
	}
	if o.ExtraWorker != nil {
		var extra *database.WorkerGroup
		extra, errs[o.WorkerGroups] = t.DB.StartWorkers(ctx, 1, slices.Concat(o.WorkerFlags, o.ExtraWorker)...)
		defer func() { t.Workers = append(t.Workers, extra) }()
	}
	group.Wait()
	return errors.Join(errs...)
}

// chooseTarget chooses the instance of this node.
func (t *Fixture) chooseTarget(ctx context.Context, nodeOf func(context.Context) (string, error)) error {
	node, err := nodeOf(ctx)
	if err != nil {
		return fmt.Errorf("choose the node to terminate: %w", err)
	}
	i := slices.IndexFunc(t.Nodes, func(i env.Instance) bool { return i.Node == node })
	if i < 0 {
		return fmt.Errorf("the node to terminate is %s, which is none of ours", node)
	}
	t.Target = t.Nodes[i]
	return nil
}

// nodeOfPooler returns the name of a node that has a pooler.
func (t *Fixture) nodeOfPooler(ctx context.Context) (string, error) {
	pods, err := t.DB.PoolerPods(ctx)
	if err != nil {
		return "", err
	}
	return pods[0].Spec.NodeName, nil
}

// AwaitCommits waits until every worker has committed n more transactions.
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
		if err := Wait(ctx, snapshotInterval); err != nil {
			return fmt.Errorf("wait for the workers to work: %w", err)
		}
	}
}

// Snapshot returns the workers of all groups in one snapshot.
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

// Configuration returns the function's configuration, with these settings of the poolers' escort; by default, with the
// credentials of their console. The function reaches pods directly unless a setting says otherwise, as in a VPC.
func (t *Fixture) Configuration(settings ...string) string {
	if len(settings) == 0 {
		settings = []string{t.Credentials()}
	}
	if !slices.ContainsFunc(settings, func(s string) bool { return strings.HasPrefix(s, "connectVia:") }) {
		settings = append(slices.Clone(settings), "connectVia: podIP")
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

// Credentials returns the setting that names the console's credentials.
func (t *Fixture) Credentials() string {
	return fmt.Sprintf("secretRef: {namespace: %s, name: pgbouncer-admin}", t.Name)
}

// ResetStalls makes the workers forget their stalls so far. The longest ones come from their start, when they all connect at
// once.
func (t *Fixture) ResetStalls(ctx context.Context) error {
	for _, c := range t.Workers {
		if err := c.ResetStalls(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Drain makes Auto Scaling terminate the instance and gives the event to the function, as Lambda would.
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

// TearDown removes what the fixture ran and releases its living nodes.
func (t *Fixture) TearDown(ctx context.Context) error {
	if t.DB != nil {
		if err := t.DB.Remove(ctx); err != nil {
			return err
		}
	}
	for _, i := range t.Nodes {
		if err := t.Release(ctx, i); err != nil {
			return fmt.Errorf("release node %s: %w", i.Node, err)
		}
	}
	return nil
}

// Wait waits for d, or returns the error of ctx.
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
