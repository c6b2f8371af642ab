package termination

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
)

// testEnv is AWS and Kubernetes in memory: one group, one hook, one node, and an ordered log of effects. What a test does not set
// succeeds.
type testEnv struct {
	node      *draintest.Cluster            // the node's pods; nil: there is no node
	claimants map[string]*draintest.Cluster // other nodes that claim the instance, by name

	mu            sync.Mutex
	state         string               // of our instance
	token         string               // of the present action; empty: any token is accepted
	peers         []Instance           // other instances of our group
	group         string               // of our instance; empty: workers-a
	tags          map[string]string    // of our group
	groupsAsked   []string             // that were described by name
	otherGroups   []Group              // groups beside ours
	hook          Hook                 // our hook's settings
	joinsAt       time.Time            // when the node appears
	terminated    bool                 // as EC2 says
	stopped       bool                 // likewise
	stopReason    string               // likewise
	scheduled     []ScheduledChange    // likewise
	missing       int                  // capacity of our group
	spot          bool                 // as EC2 says
	claims        string               // the instance that the node claims to be; empty: the right one
	claimsGone    bool                 // EC2 does not know that instance
	interrupted   bool                 // as the request of the Spot instance says
	interruptedAt time.Time            // likewise
	launched      time.Time            // as EC2 says
	heldElsewhere bool                 // another invocation holds our Lease
	shortenedTo   []time.Time          // deadlines that were left on that Lease
	shorten       func(time.Time)      // passes a deadline to our drain
	lost          func()               // tells our drain that another invocation has its Lease
	leaseDeadline time.Time            // that an acquisition wrote
	heldLeases    []string             // Leases that are held
	freeLeases    []string             // Leases of instances that are free
	records       draintest.Records    // on our Lease
	efforts       []drain.Effort       // that pods were watched with
	kept          []Keep               // what each release kept
	closed        []ClosedNode         // on our Lease: what was changed on nodes
	uncleanEnds   int                  // on our Lease
	received      time.Time            // on our Lease: the earliest receipt
	podsGone      int                  // how often our Lease was told of it
	activities    map[string]time.Time // the starts of activities, by instance ID
	ends          map[string]time.Time // the ends of terminations, by instance ID
	endsAsked     []string             // the groups that these were asked for
	stay          []drain.Pod          // the pods whose volumes were not awaited

	earlier     *ClosedNode   // that the last cordon was told of
	cordonedFor string        // the hook that the node was cordoned for
	cordonedAt  time.Time     // by an earlier invocation
	detachTime  time.Duration // how long volumes take
	heartbeats  []heartbeat
	events      []NodeEvent
	podEvents   []drain.PodEvent
	completed   []Result
	errors      map[string][]error // by operation: one for each call, in order
	hangs       map[string]bool    // operations that do not answer
	delay       time.Duration      // of each answer
	log         []string
}

// heartbeat is one accepted or denied heartbeat.
type heartbeat struct {
	at          time.Time
	termination Termination
}

func newTestEnv() *testEnv {
	return &testEnv{
		node: draintest.New(), state: "Terminating:Wait", errors: map[string][]error{},
		hook: Hook{HeartbeatTimeout: time.Minute, GlobalTimeout: 100 * time.Minute},
	}
}

var event = Termination{Group: "workers-a", Hook: "quiesce", Token: "t-1", InstanceID: "i-0abc1234"}

func (env *testEnv) handler() *Handler {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	return &Handler{
		Groups: env, Hooks: fakeHooks{env}, Log: quiet,
		Connect: func(ctx context.Context) (Kubernetes, error) { return env, env.ask(ctx, "connect") },
		Parse: func([]byte) Delivery {
			t := event
			t.Began = time.Now()
			return Delivery{Records: []Record{{Termination: &t}}}
		},
		Drainer: drain.Drainer{Phases: []drain.Phase{{Name: "workloads"}}, Concurrency: 16},
		Policy: Policy{
			Owns: func(name string, _ map[string]string) bool { return name == "workers-a" }, Hook: "quiesce", OnFailure: Abandon, OnSpotInterruption: true,
			Bounds: Bounds{MaxDuration: 30 * time.Minute, CompletionReserve: 30 * time.Second, NodeJoinTimeout: 15 * time.Second, VolumeDetachTimeout: time.Minute},
		},
	}
}

// do logs an effect, and returns the next error of its operation.
func (env *testEnv) do(operation string) error {
	env.mu.Lock()
	env.log = append(env.log, operation)
	env.mu.Unlock()
	return env.nextError(strings.Fields(operation)[0])
}

// ask returns the next error of an operation that has no effect. An operation that hangs ends with its context.
func (env *testEnv) ask(ctx context.Context, operation string) error {
	env.mu.Lock()
	hangs, delay := env.hangs[operation], env.delay
	env.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay)
	}
	if hangs {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return env.nextError(operation)
}

// doAsk logs an effect, and then does as ask.
func (env *testEnv) doAsk(ctx context.Context, operation string) error {
	env.mu.Lock()
	env.log = append(env.log, operation)
	env.mu.Unlock()
	return env.ask(ctx, strings.Fields(operation)[0])
}

func (env *testEnv) nextError(operation string) error {
	env.mu.Lock()
	defer env.mu.Unlock()
	errs := env.errors[operation]
	if len(errs) == 0 {
		return nil
	}
	env.errors[operation] = errs[1:]
	return errs[0]
}

// failAlways makes an operation fail until it is healed.
func (env *testEnv) failAlways(operation string, err error) (heal func()) {
	env.mu.Lock()
	defer env.mu.Unlock()
	env.errors[operation] = slices.Repeat([]error{err}, 10_000)
	return func() {
		env.mu.Lock()
		defer env.mu.Unlock()
		delete(env.errors, operation)
	}
}

// setState changes the instance's lifecycle state.
func (env *testEnv) setState(state string) {
	env.mu.Lock()
	defer env.mu.Unlock()
	env.state = state
}

// effects returns the log of effects, evictions included.
func (env *testEnv) effects() []string {
	env.mu.Lock()
	defer env.mu.Unlock()
	return slices.Clone(env.log)
}

// ours is our instance; it is in no group if it has no state.
func (env *testEnv) ours() Instance {
	env.mu.Lock()
	defer env.mu.Unlock()
	if env.state == "" {
		return Instance{ID: event.InstanceID}
	}
	return Instance{ID: event.InstanceID, Group: cmp.Or(env.group, "workers-a"), Zone: "eu-west-1a", State: env.state}
}

// Instance returns an instance in any state, as DescribeAutoScalingInstances does
// (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeAutoScalingInstances.html).
func (env *testEnv) Instance(ctx context.Context, id string) (Instance, error) {
	if err := env.ask(ctx, "instance"); err != nil {
		return Instance{}, err
	}
	if id == event.InstanceID {
		return env.ours(), nil
	}
	env.mu.Lock()
	defer env.mu.Unlock()
	return instanceOf(env.peers, id), nil
}

// Group returns no instances of the warm pool, as DescribeAutoScalingGroups does not
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/warm-pools-monitor-status.html).
func (env *testEnv) Group(ctx context.Context, name string) (Group, error) {
	if err := env.ask(ctx, "group"); err != nil {
		return Group{}, err
	}
	env.mu.Lock()
	env.groupsAsked = append(env.groupsAsked, name)
	env.mu.Unlock()
	return env.ourGroup(name), nil
}

func (env *testEnv) ourGroup(name string) Group {
	env.mu.Lock()
	all := slices.Clone(env.peers)
	env.mu.Unlock()
	if ours := env.ours(); ours.State != "" && !ours.isWarm() {
		all = append(all, ours)
	}
	return Group{Name: name, Tags: env.tags, Instances: all, Missing: env.missing}
}

// instanceOf returns the instance of this ID. If the group does not have it, its state is empty.
func instanceOf(instances []Instance, id string) Instance {
	if i := slices.IndexFunc(instances, func(i Instance) bool { return i.ID == id }); i >= 0 {
		return instances[i]
	}
	return Instance{ID: id}
}

func (env *testEnv) WarmPool(ctx context.Context, _ string) ([]Instance, error) {
	if err := env.ask(ctx, "warmpool"); err != nil {
		return nil, err
	}
	if ours := env.ours(); ours.isWarm() {
		return []Instance{ours}, nil
	}
	return nil, nil
}

func (env *testEnv) SpotInterrupted(ctx context.Context, _ string) (time.Time, bool, error) {
	if err := env.ask(ctx, "spot"); err != nil {
		return time.Time{}, false, err
	}
	env.mu.Lock()
	defer env.mu.Unlock()
	return env.interruptedAt, env.interrupted, nil
}

func (env *testEnv) List(ctx context.Context, names ...string) iter.Seq2[Group, error] {
	ours := env.ourGroup("workers-a")
	return func(yield func(Group, error) bool) {
		for _, group := range append([]Group{ours}, env.otherGroups...) {
			if err := env.nextError("groups"); err != nil && !yield(Group{}, err) {
				return
			}
			if (len(names) == 0 || slices.Contains(names, group.Name)) && !yield(group, nil) {
				return
			}
		}
	}
}

func (env *testEnv) ScheduledChanges(ctx context.Context) ([]ScheduledChange, error) {
	return env.scheduled, env.ask(ctx, "scheduled")
}

// Terminate changes the state of the instance, even if it answers with an error.
func (env *testEnv) Terminate(ctx context.Context, id string) error {
	env.mu.Lock()
	if id == event.InstanceID {
		env.state = "Terminating:Wait"
	}
	for _, group := range append(env.otherGroups, Group{Instances: env.peers}) {
		for n := range group.Instances {
			if group.Instances[n].ID == id {
				group.Instances[n].State = "Terminating:Wait"
			}
		}
	}
	env.mu.Unlock()
	return env.doAsk(ctx, "terminate "+id)
}

func (env *testEnv) ActivityStarts(ctx context.Context, _ string) (map[string]time.Time, error) {
	return env.activities, env.ask(ctx, "activities")
}

func (env *testEnv) TerminationEnds(ctx context.Context, group string, ids ...string) (map[string]time.Time, error) {
	env.mu.Lock()
	env.endsAsked = append(env.endsAsked, group)
	env.mu.Unlock()
	ends := map[string]time.Time{}
	for _, id := range ids {
		if at, known := env.ends[id]; known {
			ends[id] = at
		}
	}
	return ends, env.ask(ctx, "ends")
}

func (env *testEnv) EC2Instances(ctx context.Context, ids ...string) (map[string]EC2Instance, error) {
	if err := env.ask(ctx, "ec2"); err != nil {
		return nil, err
	}
	known := map[string]EC2Instance{}
	for _, id := range ids {
		if id == env.claims && env.claimsGone {
			continue
		}
		known[id] = EC2Instance{PrivateDNS: "node-" + id, Terminated: env.terminated, Spot: env.spot, LaunchedAt: env.launched, Stopped: env.stopped, StopReason: env.stopReason}
	}
	return known, nil
}

// fakeHooks implements Hooks. It is a type of its own because Describe would be ambiguous on testEnv.
type fakeHooks struct{ *testEnv }

func (h fakeHooks) Describe(ctx context.Context, group, _ string) (Hook, error) {
	if err := cmp.Or(h.nextError("hook-"+group), h.ask(ctx, "hook")); err != nil {
		return Hook{}, err
	}
	return h.hook, nil
}

func (h fakeHooks) Put(ctx context.Context, group, hook string, _ Hook) error {
	return h.doAsk(ctx, "put "+hook+" "+group)
}

func (h fakeHooks) Delete(ctx context.Context, group, hook string) error {
	return h.doAsk(ctx, "delete "+hook+" "+group)
}

func (h fakeHooks) Heartbeat(ctx context.Context, t Termination) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.mu.Lock()
	if h.state == inService {
		h.mu.Unlock()
		return ErrNoActiveAction
	}
	h.heartbeats = append(h.heartbeats, heartbeat{time.Now(), t})
	h.mu.Unlock()
	if h.isStale(t) {
		return ErrNoActiveAction
	}
	return cmp.Or(h.nextError("heartbeat-"+t.InstanceID), h.ask(ctx, "heartbeat"))
}

func (h fakeHooks) isStale(t Termination) bool {
	return h.token != "" && t.Token != "" && t.Token != h.token
}

func (h fakeHooks) Complete(ctx context.Context, t Termination, result Result) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := h.do(fmt.Sprintf("complete %s %s", t.Token, result)); err != nil {
		return err
	}
	if h.isStale(t) {
		return ErrNoActiveAction
	}
	h.completed = append(h.completed, result)
	return nil
}

// FindNodes returns the node that EC2 confirms, and then other claimants.
func (env *testEnv) FindNodes(ctx context.Context, id string, known EC2Instance) (FoundNodes, error) {
	if err := env.ask(ctx, "find"); err != nil {
		return FoundNodes{}, err
	}
	var found FoundNodes
	if env.node != nil && !time.Now().Before(env.joinsAt) {
		name := cmp.Or(known.PrivateDNS, "node-"+id)
		found.Nodes = append(found.Nodes, drain.Node{Name: name, UID: "uid-" + name, InstanceID: cmp.Or(env.claims, id)})
	}
	for _, name := range slices.Sorted(maps.Keys(env.claimants)) {
		found.Nodes = append(found.Nodes, drain.Node{Name: name, UID: "uid-" + name, InstanceID: id})
	}
	if len(env.claimants) > 0 {
		found.Ambiguity = fmt.Sprintf("%d Node objects claim %s", len(found.Nodes), id)
	}
	return found, nil
}

func (env *testEnv) NodeByName(_ context.Context, name string) (*drain.Node, error) {
	return &drain.Node{Name: name, InstanceID: event.InstanceID}, nil
}

// Cordon saves what it changes before it changes it.
func (env *testEnv) Cordon(ctx context.Context, node drain.Node, c Closing) (ClosedNode, error) {
	env.cordonedFor = c.Hook
	n := ClosedNode{
		Name: node.Name, UID: node.UID, Hook: c.Hook, Trigger: c.Trigger, Began: c.Began, CordonedAt: env.cordonedAt, Unschedulable: true,
	}
	if n.CordonedAt.IsZero() {
		n.CordonedAt = time.Now()
	}
	if c.Earlier != nil && c.Earlier.IsOf(c.Hook, c.Trigger, c.Began) {
		n.KeptOpen = c.Earlier.KeptOpen
	}
	env.earlier = c.Earlier
	if c.Save != nil {
		if err := c.Save(ctx, n); err != nil {
			return ClosedNode{}, err
		}
	}
	if err := env.doAsk(ctx, "cordon "+node.Name); err != nil {
		return ClosedNode{}, err
	}
	if watched := cmp.Or(env.claimants[node.Name], env.node); watched.Node().Uncordoned {
		return n, second(watched.Recordon(ctx))
	}
	return n, nil
}

func second[T any](_ T, err error) error { return err }

func (env *testEnv) WatchPods(ctx context.Context, node drain.Node, effort drain.Effort) (drain.Cluster, error) {
	if err := env.ask(ctx, "watch"); err != nil {
		return nil, err
	}
	env.efforts = append(env.efforts, effort)
	if other := env.claimants[node.Name]; other != nil {
		return loggedCluster{other, env}, nil
	}
	return loggedCluster{env.node, env}, nil
}

// loggedCluster logs evictions among the other effects.
type loggedCluster struct {
	*draintest.Cluster
	env *testEnv
}

func (l loggedCluster) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	if !o.DryRun {
		_ = l.env.do("evict " + ref.String())
	}
	return l.Cluster.Evict(ctx, ref, o)
}

func (env *testEnv) TaintTerminating(ctx context.Context, others []drain.Node) (err error) {
	for _, other := range others {
		err = errors.Join(err, env.doAsk(ctx, "taint node-"+other.InstanceID))
	}
	return err
}

func (env *testEnv) RecordEvent(ctx context.Context, _ drain.Node, e NodeEvent) error {
	env.mu.Lock()
	env.events = append(env.events, e)
	env.mu.Unlock()
	return env.ask(ctx, "event")
}

func (env *testEnv) RecordPodEvent(ctx context.Context, e drain.PodEvent) error {
	env.mu.Lock()
	env.podEvents = append(env.podEvents, e)
	env.mu.Unlock()
	return env.ask(ctx, "pod event")
}

// Restore undoes what is recorded, and nothing without a record but the taint.
func (env *testEnv) Restore(_ context.Context, node drain.Node, closed *ClosedNode) error {
	if closed == nil {
		return env.do("untaint " + node.Name)
	}
	return env.do("restore " + node.Name)
}

func (env *testEnv) AwaitDetached(ctx context.Context, _ drain.Node, stay []drain.Pod) (int, error) {
	env.stay = stay
	_ = env.do("volumes")
	return 0, drain.Sleep(ctx, env.detachTime)
}

func (env *testEnv) PDBs(context.Context, []drain.Pod) ([]drain.PDB, error) {
	return []drain.PDB{}, nil
}

func (env *testEnv) AcquireLease(ctx context.Context, _ string, a Acquisition) (Lease, error) {
	if env.heldElsewhere {
		return nil, nil
	}
	env.mu.Lock()
	env.shorten, env.lost = a.Shorten, a.Lost
	if !a.Deadline.IsZero() {
		env.leaseDeadline = a.Deadline
	}
	if env.received.IsZero() || !a.Received.IsZero() && a.Received.Before(env.received) {
		env.received = a.Received
	}
	env.mu.Unlock()
	if err := env.doAsk(ctx, "acquire"); err != nil {
		return nil, err
	}
	return fakeLease{&env.records, env}, nil
}

// fakeLease is the instance's Lease in our hands.
type fakeLease struct {
	*draintest.Records
	env *testEnv
}

func (l fakeLease) FirstReceived() time.Time { return l.env.received }
func (l fakeLease) UncleanEnds() int         { return l.env.uncleanEnds }

func (l fakeLease) PodGone() {
	l.env.mu.Lock()
	defer l.env.mu.Unlock()
	l.env.podsGone++
}

func (l fakeLease) Closed() []ClosedNode {
	l.env.mu.Lock()
	defer l.env.mu.Unlock()
	return slices.Clone(l.env.closed)
}

func (l fakeLease) Escorted() []string { return l.env.records.Keys(drain.EscortRecord) }

func (l fakeLease) SetClosed(ctx context.Context, n ClosedNode) error {
	if err := l.env.ask(ctx, "save"); err != nil {
		return err
	}
	l.forget(n.UID)
	l.env.mu.Lock()
	defer l.env.mu.Unlock()
	l.env.closed = append(l.env.closed, n)
	return nil
}

func (l fakeLease) ForgetClosed(ctx context.Context, nodeUID string) error {
	if err := l.env.ask(ctx, "forget"); err != nil {
		return err
	}
	l.forget(nodeUID)
	return nil
}

func (l fakeLease) forget(nodeUID string) {
	l.env.mu.Lock()
	defer l.env.mu.Unlock()
	l.env.closed = slices.DeleteFunc(l.env.closed, func(n ClosedNode) bool { return n.UID == nodeUID })
}

func (l fakeLease) Release(keep Keep) error {
	l.env.mu.Lock()
	l.env.kept = append(l.env.kept, keep)
	if keep == KeepNothing {
		l.env.closed = nil
	}
	if keep != KeepAll {
		l.env.received = time.Time{}
	}
	l.env.mu.Unlock()
	return l.env.do("release")
}

func (env *testEnv) ShortenDeadline(_ context.Context, id string, deadline time.Time) error {
	env.shortenedTo = append(env.shortenedTo, deadline)
	return env.nextError("shorten")
}

// shortenDeadline passes a deadline to our drain, as a renewal of the Lease would.
func (env *testEnv) shortenDeadline(deadline time.Time) {
	env.mu.Lock()
	defer env.mu.Unlock()
	env.shorten(deadline)
}

func (env *testEnv) Leases(context.Context) ([]LeaseInfo, error) {
	var all []LeaseInfo
	for _, name := range env.heldLeases {
		all = append(all, LeaseInfo{Name: name, Held: true, Received: env.received})
	}
	for _, name := range env.freeLeases {
		all = append(all, LeaseInfo{Name: name})
	}
	escorted := env.records.Keys(drain.EscortRecord)
	if (len(env.closed) > 0 || len(escorted) > 0) && !slices.Contains(env.heldLeases, event.InstanceID) {
		all = append(all, LeaseInfo{Name: event.InstanceID, Closed: env.closed, Escorted: escorted})
	}
	return all, env.nextError("leases")
}

func (env *testEnv) ReadRecords(ctx context.Context, _ string) (drain.Records, error) {
	return &env.records, env.ask(ctx, "records")
}

func (env *testEnv) DeleteFreeLease(_ context.Context, id string) error {
	return env.do("delete lease " + id)
}

// deliver runs one invocation for the record, with Lambda's full fifteen minutes.
func deliver(t *testing.T, h *Handler, record Record) (Report, error) {
	t.Helper()
	h.Parse = func([]byte) Delivery { return Delivery{Records: []Record{record}} }
	return invoke(t, h)
}
