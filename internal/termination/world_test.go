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
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/drain/draintest"
)

// world is all that a termination meets, in memory: one group, one hook, one node, and an ordered log of what was done to
// them. What a test does not set behaves well.
type world struct {
	node *draintest.Cluster // the node's pods; nil: there is no node

	mu         sync.Mutex
	state      string               // of our instance
	token      string               // of the action that it is in, if events can be of another one; empty: any is
	others     []Instance           // of the group
	groups     []Group              // others
	hook       Hook                 // our hook's settings
	joins      time.Time            // when the node appears
	gone       bool                 // the instance, as EC2 sees it
	spot       bool                 // likewise
	leased     bool                 // by another invocation
	hasty      []time.Time          // deadlines that were left for that one
	hears      func(time.Time)      // our drain, of one
	leases     []string             // all, as a sweep sees them
	freeLeases []string             // of instances, held by none
	records    draintest.Records    // on our Lease
	kept       []Keep               // at each release
	marks      []CordonedNode       // likewise
	began      map[string]time.Time // activities
	claims     []string             // waited for

	cordonedFor string        // the hook
	cordoned    time.Time     // by an earlier slice
	detach      time.Duration // how long volumes take
	beats       []beat
	told        []NodeEvent
	completed   []Result
	faults      map[string][]error // by operation: one each, in order
	log         []string
}

// beat is a heartbeat.
type beat struct {
	at time.Time
	of Termination
}

func newWorld() *world {
	return &world{
		node: draintest.New(), state: "Terminating:Wait", faults: map[string][]error{},
		hook: Hook{HeartbeatTimeout: time.Minute, GlobalTimeout: 100 * time.Minute},
	}
}

var event = Termination{Group: "workers-a", Hook: "quiesce", Token: "t-1", InstanceID: "i-0abc1234"}

func (w *world) handler() *Handler {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	return &Handler{
		Groups: w, Hooks: hooks{w}, Log: quiet,
		Connect: func(context.Context) (Kubernetes, error) { return w, w.fault("connect") },
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

// do writes an effect to the log, and returns the fault that was set for the operation.
func (w *world) do(operation string) error {
	w.mu.Lock()
	w.log = append(w.log, operation)
	w.mu.Unlock()
	return w.fault(strings.Fields(operation)[0])
}

func (w *world) fault(operation string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	errs := w.faults[operation]
	if len(errs) == 0 {
		return nil
	}
	w.faults[operation] = errs[1:]
	return errs[0]
}

// failing has an operation fail until it is told otherwise.
func (w *world) failing(operation string, err error) (heal func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults[operation] = slices.Repeat([]error{err}, 10_000)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.faults, operation)
	}
}

// enter changes the instance's state.
func (w *world) enter(state string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = state
}

// effects is the log with the evictions among it.
func (w *world) effects() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.log)
}

func (w *world) Instances(context.Context, string) ([]Instance, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.Clone(w.others)
	if w.state != "" {
		all = append(all, Instance{ID: event.InstanceID, Zone: "eu-west-1a", State: w.state})
	}
	return all, nil
}

func (w *world) GroupOf(context.Context, string) (string, error) {
	return "workers-a", w.fault("group")
}

func (w *world) List(ctx context.Context, names ...string) iter.Seq2[Group, error] {
	own, _ := w.Instances(ctx, "workers-a")
	return func(yield func(Group, error) bool) {
		for _, group := range append([]Group{{"workers-a", own}}, w.groups...) {
			if err := w.fault("every"); err != nil && !yield(Group{}, err) {
				return
			}
			if (len(names) == 0 || slices.Contains(names, group.Name)) && !yield(group, nil) {
				return
			}
		}
	}
}

func (w *world) ActivityStarts(context.Context, string) (map[string]time.Time, error) {
	return w.began, w.fault("began")
}

func (w *world) EC2Instances(_ context.Context, ids ...string) (map[string]EC2Instance, error) {
	machines := map[string]EC2Instance{}
	for _, id := range ids {
		machines[id] = EC2Instance{PrivateDNS: "node-" + id, Terminated: w.gone, Spot: w.spot}
	}
	return machines, w.fault("machines")
}

// hooks is a type of its own because its Describe says nothing of what is described.
type hooks struct{ *world }

func (h hooks) Describe(_ context.Context, group, _ string) (Hook, error) {
	if err := h.fault("hook-" + group); err != nil {
		return Hook{}, err
	}
	return h.hook, h.fault("hook")
}

func (h hooks) Heartbeat(ctx context.Context, t Termination) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.mu.Lock()
	if h.state == inService {
		h.mu.Unlock()
		return ErrNoActiveAction
	}
	h.beats = append(h.beats, beat{time.Now(), t})
	h.mu.Unlock()
	if h.isStale(t) {
		return ErrNoActiveAction
	}
	return cmp.Or(h.fault("heartbeat-"+t.InstanceID), h.fault("heartbeat"))
}

func (h hooks) isStale(t Termination) bool {
	return h.token != "" && t.Token != "" && t.Token != h.token
}

func (h hooks) Complete(ctx context.Context, t Termination, result Result) error {
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

func (w *world) FindNode(_ context.Context, id, name, _ string) (*drain.Node, error) {
	if w.node == nil || time.Now().Before(w.joins) {
		return nil, w.fault("find")
	}
	return &drain.Node{Name: name, InstanceID: id}, w.fault("find")
}

func (w *world) NodeByName(_ context.Context, name string) (*drain.Node, error) {
	return &drain.Node{Name: name, InstanceID: event.InstanceID}, nil
}

func (w *world) Cordon(_ context.Context, node drain.Node, hook string, _ time.Time) (time.Time, error) {
	w.cordonedFor = hook
	at := w.cordoned
	if at.IsZero() {
		at = time.Now()
	}
	return at, w.do("cordon " + node.Name)
}

func (w *world) WatchPods(_ context.Context, node drain.Node) (drain.Cluster, error) {
	return logged{w.node, w}, w.fault("watch")
}

// logged writes evictions to the world's log.
type logged struct {
	*draintest.Cluster
	world *world
}

func (l logged) Evict(ctx context.Context, ref drain.Ref, o drain.EvictOptions) error {
	_ = l.world.do("evict " + ref.String())
	return l.Cluster.Evict(ctx, ref, o)
}

func (w *world) TaintTerminating(_ context.Context, others []drain.Node) (err error) {
	for _, other := range others {
		err = errors.Join(err, w.do("repel node-"+other.InstanceID))
	}
	return err
}

func (w *world) RecordEvent(_ context.Context, _ drain.Node, e NodeEvent) error {
	w.mu.Lock()
	w.told = append(w.told, e)
	w.mu.Unlock()
	return w.fault("tell")
}

func (w *world) Restore(_ context.Context, node drain.Node, hook string) (bool, error) {
	if len(w.marks) > 0 && w.marks[0].Hook != hook {
		return false, nil
	}
	return true, w.do("restore " + node.Name)
}

func (w *world) AwaitDetached(ctx context.Context, _ drain.Node, claims []string) error {
	w.claims = claims
	_ = w.do("volumes")
	return pause(ctx, w.detach)
}

func (w *world) PDBs(context.Context, []drain.Pod) ([]drain.PDB, error) {
	return []drain.PDB{}, nil
}

func (w *world) AcquireLease(_ context.Context, _ string, shorten func(time.Time)) (Lease, error) {
	if w.leased {
		return nil, nil
	}
	w.mu.Lock()
	w.hears = shorten
	w.mu.Unlock()
	if err := w.do("own"); err != nil {
		return nil, err
	}
	return leaseOf{&w.records, w}, nil
}

// leaseOf is our Lease.
type leaseOf struct {
	*draintest.Records
	world *world
}

func (l leaseOf) Release(keep Keep) error {
	l.world.mu.Lock()
	l.world.kept = append(l.world.kept, keep)
	l.world.mu.Unlock()
	return l.world.do("release")
}

func (w *world) ShortenDeadline(_ context.Context, id string, deadline time.Time) error {
	w.hasty = append(w.hasty, deadline)
	return w.fault("hasten")
}

// hasten tells our drain of a deadline.
func (w *world) hasten(deadline time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hears(deadline)
}

func (w *world) Leases(context.Context) ([]LeaseInfo, error) {
	var all []LeaseInfo
	for _, name := range w.leases {
		all = append(all, LeaseInfo{Name: name, Held: true})
	}
	for _, name := range w.freeLeases {
		all = append(all, LeaseInfo{Name: name})
	}
	return all, w.fault("owned")
}

func (w *world) DeleteFreeLease(_ context.Context, id string) error {
	return w.do("delete lease " + id)
}

func (w *world) CordonedNodes(context.Context) ([]CordonedNode, error) {
	return w.marks, w.fault("marked")
}

// mailbox is a queue and its dead letters, in memory.
type mailbox struct {
	*world
	takes             time.Duration // each call
	waiting, underWay int
	hides             []hide
	sent              []string
	buried            []Record
}

// hide is one change of a message's visibility.
type hide struct {
	at      time.Time
	message string // its receipt handle
	d       time.Duration
}

// Hide takes effect though nobody waits for its answer any more.
func (m *mailbox) Hide(ctx context.Context, receiptHandle string, d time.Duration) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(m.takes)
		if d != hiddenTime {
			_ = m.do(fmt.Sprintf("give back %s", receiptHandle))
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.hides = append(m.hides, hide{time.Now(), receiptHandle, d})
	}()
	select {
	case <-done:
		return m.fault("hide")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// of are the changes of one message's visibility.
func (m *mailbox) of(receiptHandle string) (hides []hide) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.hides {
		if h.message == receiptHandle {
			hides = append(hides, h)
		}
	}
	return hides
}

func (m *mailbox) Send(_ context.Context, body string) error {
	if err := m.fault("send"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sent = append(m.sent, body)
	return nil
}

func (m *mailbox) Backlog(context.Context) (int, int, error) {
	return m.waiting, m.underWay, m.fault("backlog")
}

func (m *mailbox) SendToDLQ(_ context.Context, record Record) error {
	if err := m.fault("bury"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.buried = append(m.buried, record)
	return nil
}
