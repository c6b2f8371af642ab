package termination

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
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
	node *draintest.Cluster // the node's pods; nil: there is no node

	mu            sync.Mutex
	state         string               // of our instance
	token         string               // of the present action; empty: any token is accepted
	peers         []Instance           // other instances of our group
	otherGroups   []Group              // groups beside ours
	hook          Hook                 // our hook's settings
	joinsAt       time.Time            // when the node appears
	terminated    bool                 // as EC2 says
	spot          bool                 // as EC2 says
	heldElsewhere bool                 // another invocation holds our Lease
	shortenedTo   []time.Time          // deadlines that were left on that Lease
	shorten       func(time.Time)      // passes a deadline to our drain
	heldLeases    []string             // Leases that are held
	freeLeases    []string             // Leases of instances that are free
	records       draintest.Records    // on our Lease
	kept          []Keep               // what each release kept
	cordonedNodes []CordonedNode       // as a sweep finds them
	activities    map[string]time.Time // the starts of activities, by instance ID
	claims        []string             // whose volumes were awaited

	cordonedFor string        // the hook that the node was cordoned for
	cordonedAt  time.Time     // by an earlier invocation
	detachTime  time.Duration // how long volumes take
	heartbeats  []heartbeat
	events      []NodeEvent
	completed   []Result
	errors      map[string][]error // by operation: one for each call, in order
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
		Connect: func(context.Context) (Kubernetes, error) { return env, env.nextError("connect") },
		Parse: func([]byte) Delivery {
			t := event
			t.Began = time.Now()
			return Delivery{Records: []Record{{Termination: &t}}}
		},
		Drainer: drain.Drainer{Phases: []drain.Phase{{Name: "workloads"}}, Concurrency: 16},
		Policy: Policy{
			OwnsGroup: func(name string) bool { return name == "workers-a" }, Hook: "quiesce", OnFailure: Abandon,
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

func (env *testEnv) Instances(context.Context, string) ([]Instance, error) {
	env.mu.Lock()
	defer env.mu.Unlock()
	all := slices.Clone(env.peers)
	if env.state != "" {
		all = append(all, Instance{ID: event.InstanceID, Zone: "eu-west-1a", State: env.state})
	}
	return all, nil
}

func (env *testEnv) GroupOf(context.Context, string) (string, error) {
	return "workers-a", env.nextError("group")
}

func (env *testEnv) List(ctx context.Context, names ...string) iter.Seq2[Group, error] {
	ours, _ := env.Instances(ctx, "workers-a")
	return func(yield func(Group, error) bool) {
		for _, group := range append([]Group{{"workers-a", ours}}, env.otherGroups...) {
			if err := env.nextError("groups"); err != nil && !yield(Group{}, err) {
				return
			}
			if (len(names) == 0 || slices.Contains(names, group.Name)) && !yield(group, nil) {
				return
			}
		}
	}
}

func (env *testEnv) ActivityStarts(context.Context, string) (map[string]time.Time, error) {
	return env.activities, env.nextError("activities")
}

func (env *testEnv) EC2Instances(_ context.Context, ids ...string) (map[string]EC2Instance, error) {
	known := map[string]EC2Instance{}
	for _, id := range ids {
		known[id] = EC2Instance{PrivateDNS: "node-" + id, Terminated: env.terminated, Spot: env.spot}
	}
	return known, env.nextError("ec2")
}

// fakeHooks implements Hooks. It is a type of its own because Describe would be ambiguous on testEnv.
type fakeHooks struct{ *testEnv }

func (h fakeHooks) Describe(_ context.Context, group, _ string) (Hook, error) {
	if err := h.nextError("hook-" + group); err != nil {
		return Hook{}, err
	}
	return h.hook, h.nextError("hook")
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
	return cmp.Or(h.nextError("heartbeat-"+t.InstanceID), h.nextError("heartbeat"))
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

func (env *testEnv) FindNode(_ context.Context, id, name, _ string) (*drain.Node, error) {
	if env.node == nil || time.Now().Before(env.joinsAt) {
		return nil, env.nextError("find")
	}
	return &drain.Node{Name: name, InstanceID: id}, env.nextError("find")
}

func (env *testEnv) NodeByName(_ context.Context, name string) (*drain.Node, error) {
	return &drain.Node{Name: name, InstanceID: event.InstanceID}, nil
}

func (env *testEnv) Cordon(_ context.Context, node drain.Node, hook string, _ time.Time) (time.Time, error) {
	env.cordonedFor = hook
	at := env.cordonedAt
	if at.IsZero() {
		at = time.Now()
	}
	return at, env.do("cordon " + node.Name)
}

func (env *testEnv) WatchPods(_ context.Context, node drain.Node) (drain.Cluster, error) {
	return loggedCluster{env.node, env}, env.nextError("watch")
}

// loggedCluster logs evictions among the other effects.
type loggedCluster struct {
	*draintest.Cluster
	env *testEnv
}

func (l loggedCluster) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	_ = l.env.do("evict " + ref.String())
	return l.Cluster.Evict(ctx, ref, o)
}

func (env *testEnv) TaintTerminating(_ context.Context, others []drain.Node) (err error) {
	for _, other := range others {
		err = errors.Join(err, env.do("taint node-"+other.InstanceID))
	}
	return err
}

func (env *testEnv) RecordEvent(_ context.Context, _ drain.Node, e NodeEvent) error {
	env.mu.Lock()
	env.events = append(env.events, e)
	env.mu.Unlock()
	return env.nextError("event")
}

func (env *testEnv) Restore(_ context.Context, node drain.Node, hook string) (bool, error) {
	if len(env.cordonedNodes) > 0 && env.cordonedNodes[0].Hook != hook {
		return false, nil
	}
	return true, env.do("restore " + node.Name)
}

func (env *testEnv) AwaitDetached(ctx context.Context, _ drain.Node, claims []string) error {
	env.claims = claims
	_ = env.do("volumes")
	return pause(ctx, env.detachTime)
}

func (env *testEnv) PDBs(context.Context, []drain.Pod) ([]drain.PDB, error) {
	return []drain.PDB{}, nil
}

func (env *testEnv) AcquireLease(_ context.Context, _ string, shorten func(time.Time)) (Lease, error) {
	if env.heldElsewhere {
		return nil, nil
	}
	env.mu.Lock()
	env.shorten = shorten
	env.mu.Unlock()
	if err := env.do("acquire"); err != nil {
		return nil, err
	}
	return fakeLease{&env.records, env}, nil
}

// fakeLease is the instance's Lease in our hands.
type fakeLease struct {
	*draintest.Records
	env *testEnv
}

func (l fakeLease) Release(keep Keep) error {
	l.env.mu.Lock()
	l.env.kept = append(l.env.kept, keep)
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
		all = append(all, LeaseInfo{Name: name, Held: true})
	}
	for _, name := range env.freeLeases {
		all = append(all, LeaseInfo{Name: name})
	}
	return all, env.nextError("leases")
}

func (env *testEnv) DeleteFreeLease(_ context.Context, id string) error {
	return env.do("delete lease " + id)
}

func (env *testEnv) CordonedNodes(context.Context) ([]CordonedNode, error) {
	return env.cordonedNodes, env.nextError("cordoned")
}

// deliver runs one invocation for the record, with Lambda's full fifteen minutes.
func deliver(t *testing.T, h *Handler, record Record) (Report, error) {
	t.Helper()
	h.Parse = func([]byte) Delivery { return Delivery{Records: []Record{record}} }
	return invoke(t, h)
}
