package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

const (
	testLoop     = 10 * time.Second // Patroni's loop_wait
	demotionTime = 2400 * time.Millisecond
	proxyTime    = time.Second // until a Service follows the leader
)

// world is a database cluster of Patroni, its poolers and the Kubernetes API, in memory. It keeps every effect in order.
type world struct {
	mutex       sync.Mutex
	effects     []string
	kill        int // after so many effects the invocation dies; zero: never
	midway      int // after so many effects something happens; zero: never
	expireAfter int // after so many effects another takes the Leases of the invocation; zero: never

	leader       string            // Patroni's key; empty: released
	began        time.Time         // of the first loop
	serviceTo    string            // the member that the Service leads to
	members      map[string]string // address by name
	lag          map[string]LSN    // how far a replica is behind, live
	request      map[string]string // annotations of the failover object; nil: it does not exist
	version      int               // of that object
	behavior     string            // how Patroni deals with a request
	streams      bool              // the old primary streams after a move
	leases       map[string]*worldLease
	poolers      map[string]*worldPooler
	records      map[string]json.RawMessage // of drains, by member
	evicted      []string
	refuse       error // the answer to evictions
	live         LSN
	strict       bool
	disk         string                      // why the leader's data may exist on its node only
	hidden       bool                        // facts cannot be read
	largest      string                      // mark
	commands     int                         // that could change something were sent to consoles
	unreadable   bool                        // services cannot be listed
	work         string                      // what the primary answers over SQL; empty: nothing goes on
	volumeLooks  int                         // at the leader's volumes
	unattachable string                      // why no other node takes the primary's volumes
	events       map[string]string           // messages, by reason, pod and pause
	pace         time.Duration               // that each call takes; zero: none
	deny         func(context.Context) error // the answer to events; nil: they are created
	asked        int                         // for events

	timeline   int
	stopping   bool                 // the leader switches over
	noFailover bool                 // replicas have the tag
	unmarked   bool                 // marks cannot be read
	down       map[string]bool      // members that do not run
	unasked    bool                 // no member can be asked
	frozen     map[string]bool      // members whose Patroni does not answer or act
	starting   map[string]time.Time // until when a member does not stream
	leaving    []string             // members whose nodes do not stay
	paused     bool                 // maintenance mode
	sim        *simulation          // nil: nothing fails but what a test says
}

// newWorld returns a cluster of three members behind two poolers.
func newWorld() *world {
	w := &world{
		leader: "pg-0", serviceTo: "pg-0", began: time.Now(), streams: true, live: 5000,
		members: map[string]string{"pg-0": "10.0.0.10", "pg-1": "10.0.0.11", "pg-2": "10.0.0.12"}, lag: map[string]LSN{},
		leases: map[string]*worldLease{}, poolers: map[string]*worldPooler{}, records: map[string]json.RawMessage{}, timeline: 1, events: map[string]string{},
		down: map[string]bool{}, frozen: map[string]bool{}, starting: map[string]time.Time{}, leaving: []string{"pg-0"},
	}
	for _, name := range []string{"a", "b"} {
		w.poolers[name] = newWorldPooler()
	}
	return w
}

// effect notes an effect, which has happened. The caller holds the mutex.
func (i *incarnation) effect(format string, args ...any) {
	i.effects = append(i.effects, fmt.Sprintf(format, args...))
	if i.sim != nil {
		i.sim.lines = append(i.sim.lines, i.sim.line(i.name, fmt.Sprintf(format, args...), nil))
	}
	if i.kill > 0 && len(i.effects) >= i.kill {
		i.kill = 0
		i.die()
	}
	if i.expireAfter > 0 && len(i.effects) >= i.expireAfter && !i.dead && i.sim.expire(i) {
		i.expireAfter = 0
	}
	if i.midway > 0 && len(i.effects) >= i.midway {
		i.midway = 0
		i.locked(0, func() { i.sim.act(i.sim.scenario.midway) })
	}
}

// incarnation is one invocation's view of the world. A dead one has no effects any more.
type incarnation struct {
	*world
	dead bool
	name string
	// blind is until when it does not notice that its Leases are another's, unless it writes to one.
	blind   time.Time
	assured time.Time     // when it was last told that a Lease is its own
	looked  bool          // at the request, since it was written, or tried to
	lapsed  bool          // its Leases expired while it ran
	stall   time.Duration // for how long its next call to a console stands still
	woke    time.Time     // when it went on after that
	unsure  time.Time     // until when it only knows that its Leases are old
	doomed  bool          // it dies with its next command
	seen    seen          // the last answer about the cluster
}

func (i *incarnation) die() {
	i.dead = true
	for _, l := range i.leases {
		if l.holder == i {
			l.until = time.Now().Add(30 * time.Second)
		}
	}
	if i.sim != nil {
		i.sim.died(i)
	}
}

// ask fails if the simulation says so, or takes a while.
func (i *incarnation) ask(ctx context.Context, what string) error {
	if i.sim != nil {
		return i.sim.ask(ctx, i, what)
	}
	if i.pace > 0 {
		return escort.Sleep(ctx, i.pace)
	}
	return nil
}

// answer returns an error if the simulation loses the answer. The caller holds the mutex.
func (i *incarnation) answer(what string) error {
	if i.sim == nil || !i.sim.loses(i, what) {
		return nil
	}
	return errUnheard
}

// locked runs do later with the mutex.
func (w *world) locked(after time.Duration, do func()) {
	time.AfterFunc(after, func() {
		w.mutex.Lock()
		defer w.mutex.Unlock()
		w.sim.advance()
		do()
	})
}

// enter takes the mutex, or ends the goroutine of a dead incarnation.
func (i *incarnation) enter() func() {
	i.mutex.Lock()
	if i.dead {
		i.mutex.Unlock()
		runtime.Goexit()
	}
	i.sim.advance()
	return func() {
		dead := i.dead
		i.mutex.Unlock()
		if dead {
			runtime.Goexit()
		}
	}
}

func refOf(name string) drain.Ref { return drain.Ref{Namespace: "db", Name: name, UID: "uid-" + name} }

func memberPod(name, address string) escort.Pod {
	return escort.Pod{
		Pod:  drain.Pod{Ref: refOf(name), Labels: map[string]string{"application": "spilo", "cluster-name": "pg"}, Grace: 5 * time.Minute},
		Node: "node-" + name, IP: address, Ready: true,
	}
}

func poolerPod(name string) escort.Pod {
	owner := "uid-owner"
	if name == "new" { // of a rollout
		owner = "uid-rollout"
	}
	return escort.Pod{
		Pod: drain.Pod{Ref: refOf("pooler-" + name), Labels: map[string]string{"app": "pgbouncer"}}, IP: "10.0.1.1", Ready: true,
		Owner: escort.Owner{Kind: "ReplicaSet", Name: "pooler", UID: owner},
	}
}

// escort returns the escort as one invocation has it.
func (w *world) escort(change ...func(*Escort)) (*Escort, *incarnation) {
	i := &incarnation{world: w}
	e := &Escort{
		Settings: Settings{Postgres: config.Postgres{
			Strategy: config.StrategySwitchover, MaxLag: 16 << 20, PauseTimeout: 30 * time.Second, ScopeLabel: "cluster-name",
		}},
		Connect:  func(context.Context) (Cluster, error) { return i, nil },
		Clusters: func(Cluster) Clusters { return i },
		Consoles: i, IsPooler: func(p drain.Pod) bool { return p.Labels["app"] == "pgbouncer" }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, c := range change {
		c(e)
	}
	return e, i
}

// run runs the escort of a member once. It reports false if the invocation died.
func (w *world) run(t *testing.T, name string, change ...func(*drain.EscortRequest)) (result drain.EscortResult, err error, alive bool) {
	e, i := w.escort()
	return w.runAs(t, e, i, name, change...)
}

func (w *world) runAs(t *testing.T, e *Escort, i *incarnation, name string, change ...func(*drain.EscortRequest)) (result drain.EscortResult, err error, alive bool) {
	return w.runIn(t.Context(), t, e, i, name, change...)
}

func (w *world) runIn(ctx context.Context, t *testing.T, e *Escort, i *incarnation, name string, change ...func(*drain.EscortRequest)) (result drain.EscortResult, err error, alive bool) {
	w.mutex.Lock()
	request := requestOf(w, i, name)
	request.Log = e.Log
	request.Evict = func(ctx context.Context, o drain.EvictOptions) error {
		if err := i.ask(ctx, "evict"); err != nil {
			return err
		}
		defer i.enter()()
		if i.refuse != nil {
			i.effect("evict refused")
			return i.refuse
		}
		if o.DryRun {
			return nil
		}
		require.GreaterOrEqual(t, o.Grace, 5*time.Minute, "a member has its whole grace")
		i.sim.checkEvict(i, name, request)
		i.evicted = append(i.evicted, name)
		i.effect("evict %s", name)
		if name == i.leader {
			i.demote("pg-1")
		}
		return i.answer("evict")
	}
	w.mutex.Unlock()
	for _, c := range change {
		c(&request)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		result, err = e.Run(ctx, request)
		alive = true
	}()
	<-done
	return result, err, alive
}

// requestOf returns the request for the escort of a member, without an eviction.
func requestOf(w *world, i *incarnation, name string) drain.EscortRequest {
	return drain.EscortRequest{
		Pod: memberPod(name, "").Pod, Record: w.records[name], Recorded: w.records[name] != nil, OnlyCopy: isOnlyCopyRecord(w.records[name]),
		Save: func(ctx context.Context, record json.RawMessage, onlyCopy bool) error {
			if err := i.ask(ctx, "save"); err != nil {
				return err
			}
			defer i.enter()()
			if onlyCopy != isOnlyCopyRecord(record) {
				panic("the drain is told something else than the record: " + string(record))
			}
			i.records[name] = record
			i.effect("record %t", record != nil)
			return i.answer("save")
		},
	}
}

// isOnlyCopyRecord reports whether an escort's record says that its pod has the only copy of its data. The drain keeps the same beside it.
func isOnlyCopyRecord(record json.RawMessage) bool {
	m, err := readMark(string(record))
	return err == nil && m.OnlyCopy
}

// requireNothingPaused fails if a pooler is paused, or a mark is left.
func (w *world) requireNothingPaused(t *testing.T) {
	t.Helper()
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for name, p := range w.poolers {
		require.Empty(t, p.paused, "pooler %s\n%s", name, strings.Join(w.effects, "\n"))
		require.Equal(t, "15", p.retry, "pooler %s\n%s", name, strings.Join(w.effects, "\n"))
	}
	for name, l := range w.leases {
		require.Empty(t, l.mark, name)
	}
}

// requireResumed is requireNothingPaused after an interrupted move, whose mark stays until its last command cannot come any more.
func (w *world) requireResumed(t *testing.T) {
	t.Helper()
	w.mutex.Lock()
	for name, p := range w.poolers {
		require.Empty(t, p.paused, "pooler %s\n%s", name, strings.Join(w.effects, "\n"))
	}
	for name, l := range w.leases {
		m, err := readMark(l.mark)
		require.True(t, l.mark == "" || err == nil && m.Resumed && m.Again.After(time.Now()), "%s: %s", name, l.mark)
	}
	w.mutex.Unlock()
	time.Sleep(lateTime)
	e, _ := w.escort()
	resumed, _, err := e.Resume(t.Context())
	require.NoError(t, err)
	require.Empty(t, resumed, "they were resumed before")
	w.requireNothingPaused(t)
}

// longest returns for how long any client waited.
func (w *world) longest() (longest time.Duration) {
	for _, p := range w.poolers {
		longest = max(longest, p.longest)
	}
	return longest
}

// order returns the effects with these prefixes, each effect once.
func (w *world) order(prefixes ...string) (found []string) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for _, effect := range w.effects {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(effect, p) }) && !slices.Contains(found, effect) {
			found = append(found, effect)
		}
	}
	return found
}
