package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

const (
	testLoop     = 10 * time.Second // Patroni's loop_wait
	demotionTime = 2400 * time.Millisecond
	proxyTime    = time.Second // until a Service follows the leader
)

// world is a database cluster of Patroni, its poolers and the Kubernetes API, in memory. It keeps every effect in order.
type world struct {
	mutex   sync.Mutex
	effects []string
	kill    int // after so many effects the invocation dies; zero: never

	leader     string            // Patroni's key; empty: released
	began      time.Time         // of the first loop
	serviceTo  string            // the member that the Service leads to
	members    map[string]string // address by name
	lag        map[string]LSN    // how far a replica is behind, live
	request    map[string]string // annotations of the failover object; nil: it does not exist
	version    int               // of that object
	behavior   string            // how Patroni deals with a request
	streams    bool              // the old primary streams after a move
	leases     map[string]*worldLease
	poolers    map[string]*worldPooler
	records    map[string]json.RawMessage // of drains, by member
	evicted    []string
	refuse     error // the answer to evictions
	live       LSN
	strict     bool
	disk       string                      // why the leader's data may exist on its node only
	hidden     bool                        // facts cannot be read
	largest    string                      // mark
	commands   int                         // that could change something were sent to consoles
	unreadable bool                        // services cannot be listed
	work       string                      // what the primary answers over SQL; empty: nothing goes on
	stranded   string                      // why no other node takes the primary's volumes
	events     map[string]string           // messages, by reason, pod and pause
	pace       time.Duration               // that each call takes; zero: none
	deny       func(context.Context) error // the answer to events; nil: they are created
	asked      int                         // for events

	timeline int
	stopping bool                 // the leader hands over
	down     map[string]bool      // members that do not run
	frozen   map[string]bool      // members whose Patroni does not answer or act
	starting map[string]time.Time // until when a member does not stream
	leaving  []string             // members whose nodes do not stay
	paused   bool                 // maintenance mode
	sim      *simulation          // nil: nothing fails but what a test says
}

type worldLease struct {
	mark   string
	holder *incarnation
	since  time.Time // when it was taken
	until  time.Time // when a dead holder's Lease expires
}

type worldPooler struct {
	databases []PoolerDatabase
	queryWait time.Duration
	quiet     time.Duration // of the oldest transaction
	noConsole bool
	authQuery bool
	retry     string        // the setting server_login_retry
	longTx    bool          // a transaction never ends
	busy      time.Duration // until the open transactions end
	deaf      bool          // answers nothing once it is paused, for a while
	frozen    bool          // deaf to questions too, so that it is seen before the request
	gone      bool
	restarts  int
	deafFor   time.Duration
	by        *incarnation // that paused it last
	excused   time.Time    // when its console last failed
	refuses   bool         // proofs fail
	readOnly  bool         // its login may only look
	paused    map[string]time.Time
	longest   time.Duration // that clients of a database waited
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

func newWorldPooler() *worldPooler {
	return &worldPooler{
		retry: "15", queryWait: 2 * time.Minute, paused: map[string]time.Time{},
		databases: []PoolerDatabase{{Name: "app", Host: "pg", Port: 5432}, {Name: "other", Host: "elsewhere", Port: 5432}},
	}
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
}

// incarnation is one invocation's view of the world. A dead one has no effects any more.
type incarnation struct {
	*world
	dead bool
	name string
	seen seen // the last answer about the cluster
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

func (i *incarnation) Facts(ctx context.Context, id Identity) (Facts, error) {
	if err := i.ask(ctx, "facts"); err != nil {
		return Facts{}, err
	}
	defer i.enter()()
	if i.hidden {
		return Facts{}, errors.New("forbidden")
	}
	i.seen = seen{time.Now(), i.leader, len(i.request) > 0, i.paused}
	f := Facts{
		Identity: id, At: time.Now(), Mode: Endpoints, Version: "4.0.7", Leader: i.leader, TTL: 30 * time.Second, LoopWait: testLoop,
		RenewTime: i.renewed(), MaxLag: 1 << 20, FailoverVersion: i.failoverVersion(),
		ObjectLabels: map[string]string{"cluster-name": id.Scope}, Strict: i.strict, Synchronous: i.strict, Paused: i.paused,
	}
	if i.strict {
		f.SyncStandbys = []string{"pg-1"}
	}
	if len(i.request) > 0 {
		f.Pending = "a switchover to " + i.request["member"]
	}
	for _, name := range slices.Sorted(maps.Keys(i.members)) {
		f.Members = append(f.Members, Member{
			Ref: refOf(name), Node: "node-" + name, IP: i.members[name], Ready: true, API: Address{Port: 8008}, LiveState: i.liveState(name),
		})
		m := &f.Members[len(f.Members)-1]
		m.Live, m.Ready, m.Terminating = false, !i.down[name], slices.Contains(i.evicted, name)
		if slices.Contains(i.leaving, name) {
			m.Leaving = "it is being terminated"
		}
		if m.Role.Leads() {
			f.Leaders = append(f.Leaders, name)
		}
	}
	return f, nil
}

func refOf(name string) drain.Ref { return drain.Ref{Namespace: "db", Name: name, UID: "uid-" + name} }

func (i *incarnation) failoverVersion() string {
	if i.request == nil {
		return ""
	}
	return strconv.Itoa(i.version)
}

func (i *incarnation) Live(ctx context.Context, _ Identity, m Member) (LiveState, error) {
	if err := i.ask(ctx, "live "+m.Name); err != nil {
		return LiveState{}, err
	}
	defer i.enter()()
	if _, exists := i.members[m.Name]; !exists || i.down[m.Name] {
		return LiveState{}, errors.New("no answer")
	}
	return i.liveState(m.Name), nil
}

func (i *incarnation) liveState(name string) LiveState {
	state := LiveState{Live: true, Role: Replica, State: "streaming", Version: "4.0.7", Timeline: i.timeline, LSN: i.live - i.lag[name]}
	switch {
	case name == i.leader:
		state.Role, state.State = Primary, "running"
	case name == "pg-0" && !i.streams, time.Now().Before(i.starting[name]):
		state.State = "starting"
	}
	return state
}

func (i *incarnation) Annotated(ctx context.Context, _, _, name string) (*escort.Annotated, error) {
	if err := i.ask(ctx, "annotated"); err != nil {
		return nil, err
	}
	defer i.enter()()
	if name == "pg-failover" {
		if i.request == nil {
			return nil, nil
		}
		return &escort.Annotated{ResourceVersion: strconv.Itoa(i.version), Annotations: maps.Clone(i.request)}, nil
	}
	return &escort.Annotated{Annotations: map[string]string{"leader": i.leader}}, nil
}

func memberPod(name, address string) escort.Pod {
	return escort.Pod{
		Pod:  drain.Pod{Ref: refOf(name), Labels: map[string]string{"application": "spilo", "cluster-name": "pg"}, Grace: 5 * time.Minute},
		Node: "node-" + name, IP: address, Ready: true,
	}
}

func poolerPod(name string) escort.Pod {
	return escort.Pod{
		Pod: drain.Pod{Ref: refOf("pooler-" + name), Labels: map[string]string{"app": "pgbouncer"}}, IP: "10.0.1.1", Ready: true,
		Owner: escort.Owner{Kind: "ReplicaSet", Name: "pooler", UID: "uid-owner"},
	}
}

func (i *incarnation) PodsByLabel(context.Context, string, map[string]string) ([]escort.Pod, error) {
	return nil, errors.New("not used")
}

func (i *incarnation) PodsMatching(ctx context.Context, _ string, match func(drain.Pod) bool) (pods []escort.Pod, err error) {
	if err := i.ask(ctx, "pods"); err != nil {
		return nil, err
	}
	defer i.enter()()
	for _, name := range slices.Sorted(maps.Keys(i.members)) {
		pods = append(pods, memberPod(name, i.members[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(i.poolers)) {
		if !i.poolers[name].gone {
			pods = append(pods, poolerPod(name))
		}
	}
	return slices.DeleteFunc(pods, func(p escort.Pod) bool { return !match(p.Pod) }), nil
}

func (i *incarnation) Inspect(ctx context.Context, ref drain.Ref) (*escort.Pod, error) {
	if err := i.ask(ctx, "inspect"); err != nil {
		return nil, err
	}
	defer i.enter()()
	if name, is := strings.CutPrefix(ref.Name, "pooler-"); is {
		if i.poolers[name] == nil || i.poolers[name].gone {
			return nil, nil
		}
		pod := poolerPod(name)
		return &pod, nil
	}
	pod := memberPod(ref.Name, i.members[ref.Name])
	if slices.Contains(i.evicted, ref.Name) {
		pod.Deleted = time.Now()
	}
	return &pod, nil
}

func (i *incarnation) NodeFate(context.Context, string) (escort.NodeFate, error) {
	return escort.NodeFate{}, nil
}
func (i *incarnation) GetFromPod(context.Context, drain.Ref, int, bool, string) ([]byte, error) {
	return nil, errors.New("not used")
}
func (i *incarnation) VolumeZones(context.Context, string, string, string) ([]string, error) {
	return nil, nil
}
func (i *incarnation) OtherNodeStays(context.Context, []string, string) (bool, error) {
	return true, nil
}
func (i *incarnation) Disk(context.Context, Member) string { return i.disk }

func (i *incarnation) Stranded(context.Context, Member) (string, error) {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	return i.stranded, nil
}
func (i *incarnation) VolumeFollows(context.Context, string, string) (bool, error) { return true, nil }
func (i *incarnation) Custom(context.Context, string, string, string, string, any) (bool, error) {
	return false, nil
}

func (i *incarnation) Services(ctx context.Context, _ string) ([]escort.Service, error) {
	if err := i.ask(ctx, "services"); err != nil {
		return nil, err
	}
	defer i.enter()()
	if i.unreadable {
		return nil, errors.New("forbidden")
	}
	return []escort.Service{
		{Namespace: "db", Name: "pg", Addresses: []string{"10.98.0.10"}, Ready: []string{i.members[i.serviceTo]}},
		{Namespace: "db", Name: "pg-replicas", Ready: slices.Sorted(maps.Values(i.members))},
	}, nil
}

func (i *incarnation) AcquireMarkedLease(ctx context.Context, name string) (escort.MarkedLease, error) {
	if err := i.ask(ctx, "acquire"); err != nil {
		return nil, err
	}
	defer i.enter()()
	l := i.leases[name]
	if l == nil {
		l = &worldLease{}
		i.leases[name] = l
	}
	if l.isHeld() {
		return nil, nil
	}
	if err := i.answer("acquire"); err != nil { // nobody renews it
		l.holder, l.until = &incarnation{world: i.world, dead: true}, time.Now().Add(30*time.Second)
		return nil, err
	}
	l.holder, l.since = i, time.Now()
	return &heldLease{i, l}, nil
}

func (l *worldLease) isHeld() bool {
	return l.holder != nil && (!l.holder.dead || time.Now().Before(l.until))
}

type heldLease struct {
	i *incarnation
	*worldLease
}

func (l *heldLease) Mark() string { return l.mark }

func (l *heldLease) Lost() error {
	l.i.mutex.Lock()
	defer l.i.mutex.Unlock()
	return l.lost()
}

func (l *heldLease) lost() error {
	switch {
	case l.holder == l.i:
		return nil
	case l.holder == nil:
		return errors.New("somebody has deleted it")
	}
	return fmt.Errorf("%w: %s", escort.ErrTaken, l.holder.name)
}

func (l *heldLease) SetMark(ctx context.Context, text string) error {
	if err := l.i.ask(ctx, "mark"); err != nil {
		return err
	}
	defer l.i.enter()()
	if err := l.lost(); err != nil {
		return err
	}
	if l.mark == text {
		return nil
	}
	l.i.sim.checkMark(l, text)
	l.mark = text
	if len(text) > len(l.i.largest) {
		l.i.largest = text
	}
	l.i.effect("mark %t", text != "")
	return l.i.answer("mark")
}

func (l *heldLease) Release() error {
	defer l.i.enter()()
	if l.holder == l.i {
		l.holder = nil
	}
	return nil
}

func (i *incarnation) Marks(ctx context.Context, prefix string) (marks []escort.Mark, err error) {
	if err := i.ask(ctx, "marks"); err != nil {
		return nil, err
	}
	defer i.enter()()
	for name, l := range i.leases {
		if strings.HasPrefix(name, prefix) && l.mark != "" {
			marks = append(marks, escort.Mark{Lease: name, Text: l.mark, Held: l.isHeld()})
		}
	}
	return marks, nil
}

func (i *incarnation) RequestSwitchover(ctx context.Context, f escort.Failover) (string, error) {
	if err := i.ask(ctx, "request"); err != nil {
		return "", err
	}
	defer i.enter()()
	if f.Version != i.failoverVersion() {
		return "", errors.New("conflict")
	}
	i.sim.checkRequest(i, f.Leader, f.Candidate)
	i.version++
	i.request = map[string]string{"leader": f.Leader, "member": f.Candidate, "scheduled_at": f.At.Format(time.RFC3339Nano)}
	version := strconv.Itoa(i.version)
	i.afterLoop(f)
	i.effect("request %s to %s", f.Leader, f.Candidate)
	return version, i.answer("request")
}

// afterLoop lets Patroni notice the request, in its next loop and not before the time of the request.
func (i *incarnation) afterLoop(f escort.Failover) {
	w := i.world
	if w.behavior == "frozen" {
		return
	}
	next := w.began.Add(time.Since(w.began).Truncate(testLoop) + testLoop)
	if w.behavior == "late" {
		next = next.Add(4 * testLoop)
	}
	if next.Before(f.At) {
		next = f.At
	}
	w.loop(next, w.version, f)
}

// loop is the leader's loop that may notice the request of this version. What it has read is done at its time, withdrawn or not.
func (w *world) loop(at time.Time, version int, f escort.Failover) {
	w.locked(time.Until(at), func() {
		late := time.Since(f.At) > testLoop*3/2
		switch {
		case w.version != version || w.request["member"] == "":
		case w.down[w.leader] || w.frozen[w.leader]:
			w.loop(at.Add(testLoop), version, f)
		case w.behavior == "refused" || late || f.Leader != w.leader:
			w.version, w.request = w.version+1, map[string]string{}
		default:
			w.locked(time.Until(f.At), func() { w.demote(f.Candidate) })
		}
	})
}

// demote hands over to the candidate, or to another if it cannot lead. The caller holds the mutex.
func (w *world) demote(candidate string) {
	old := w.leader
	if w.stopping || old == "" {
		return
	}
	w.stopping = true
	w.sim.stops()
	w.locked(demotionTime, func() {
		if w.leader != old {
			return
		}
		w.leader = ""
		if w.behavior == "candidate dies" {
			delete(w.members, candidate)
		}
		w.locked(60*time.Millisecond, func() {
			if w.leader == "" {
				w.promote(cmp.Or(w.successor(old, candidate), old))
			}
		})
	})
}

// successor returns the wanted member, or the closest one that can lead; empty: none can.
func (w *world) successor(old, wanted string) (best string) {
	for _, name := range slices.Sorted(maps.Keys(w.members)) {
		switch {
		case name == old || w.down[name] || w.frozen[name] || slices.Contains(w.evicted, name) || w.sim.isStalled(name):
		case name == wanted:
			return name
		case best == "" || w.lag[name] < w.lag[best]:
			best = name
		}
	}
	return best
}

// promote makes the member leader. The Service follows.
func (w *world) promote(name string) {
	w.sim.promotes(name)
	w.leader, w.stopping, w.timeline = name, false, w.timeline+1
	if len(w.request) > 0 {
		w.version, w.request = w.version+1, map[string]string{}
	}
	w.locked(proxyTime, func() {
		if w.leader == name {
			w.serviceTo = name
			w.sim.follows(name)
		}
	})
}

// renewed returns when the leader last renewed its key.
func (w *world) renewed() time.Time {
	at := time.Now()
	if w.sim != nil && !w.sim.silentSince.IsZero() {
		at = w.sim.silentSince
	}
	return w.began.Add(at.Sub(w.began).Truncate(testLoop))
}

// RecordPodEvent keeps one event of each pod, reason and pause, as the API server does.
func (i *incarnation) RecordPodEvent(ctx context.Context, e drain.PodEvent) error {
	if err := i.ask(ctx, "tell "+e.Pod.Name); err != nil {
		return err
	}
	leave := i.enter()
	i.asked++
	deny := i.deny
	leave()
	if deny != nil {
		return deny(ctx)
	}
	defer i.enter()()
	key := fmt.Sprintf("%s %s %d", e.Reason, e.Pod.Name, e.Began.UnixNano())
	if i.events[key] == "" {
		i.events[key] = e.Message
	}
	return nil
}

// told returns the reasons and pods of the events.
func (w *world) told() (told []string) {
	for key := range w.events {
		told = append(told, key[:strings.LastIndex(key, " ")])
	}
	slices.Sort(told)
	return told
}

func (i *incarnation) WithdrawSwitchover(ctx context.Context, _ escort.Failover, version string) error {
	if err := i.ask(ctx, "withdraw"); err != nil {
		return err
	}
	defer i.enter()()
	if version != i.failoverVersion() {
		return errors.New("conflict")
	}
	i.version++
	i.request = map[string]string{}
	i.effect("withdraw")
	return i.answer("withdraw")
}

// Switchover implements Asker: the leader acts at once.
func (i *incarnation) Switchover(ctx context.Context, leader Member, candidate string) error {
	if err := i.ask(ctx, "post"); err != nil {
		return err
	}
	leave := i.enter()
	behavior := i.behavior
	switch {
	case i.down[leader.Name]:
		behavior = "no route"
	case i.frozen[leader.Name]:
		behavior = "hung"
	case i.sim != nil && (leader.Name != i.leader || i.stopping):
		behavior = "refused"
	}
	if behavior != "no route" {
		i.sim.checkRequest(i, leader.Name, candidate)
	}
	i.effect("post %s", candidate)
	if behavior == "" {
		i.demote(candidate)
	}
	leave()
	switch behavior {
	case "refused":
		return &Refusal{"Patroni answered 412: candidate name does not match with sync_standby"}
	case "hung":
		_ = escort.Sleep(ctx, 3100*time.Millisecond)
		return errors.New("answer 503 of Patroni: Switchover failed")
	case "no route":
		return ErrNotSent
	case "held up":
		i.locked(0, func() { i.request = map[string]string{"leader": leader.Name, "member": candidate} })
		<-ctx.Done()
		defer i.enter()()
		i.effect("post given up")
		return context.Cause(ctx)
	}
	if err := escort.Sleep(ctx, demotionTime+time.Second); err != nil {
		return err
	}
	defer i.enter()()
	return i.answer("post")
}

// Open implements PoolerConsoles.
func (i *incarnation) Open(ctx context.Context, p escort.Pod) (Console, error) {
	name := strings.TrimPrefix(p.Name, "pooler-")
	if err := i.ask(ctx, "console "+name); err != nil {
		return nil, err
	}
	defer i.enter()()
	if i.poolers[name].noConsole || i.poolers[name].gone {
		return nil, errors.New("login refused")
	}
	return &worldConsole{i, i.poolers[name], name, i.poolers[name].restarts}, nil
}

// ProveWrite implements PoolerConsoles.
func (i *incarnation) ProveWrite(ctx context.Context, p escort.Pod, database string) error {
	if err := i.ask(ctx, "prove "+p.Name); err != nil {
		return err
	}
	defer i.enter()()
	if !i.sim.reaches() || i.serviceTo != i.leader || i.poolers[strings.TrimPrefix(p.Name, "pooler-")].refuses || database != Alias {
		return errors.New("read-only")
	}
	return nil
}

// ReadText implements PoolerConsoles.
func (i *incarnation) ReadText(ctx context.Context, p escort.Pod, database, query string) (string, error) {
	if err := i.ask(ctx, "read "+p.Name); err != nil {
		return "", err
	}
	defer i.enter()()
	if database != Alias || query != workQuery {
		return "", errors.New("no such query")
	}
	return cmp.Or(i.work, `{"recovery":false,"backups":0}`), nil
}

type worldConsole struct {
	*incarnation
	pooler   *worldPooler
	name     string
	restarts int // of the process that it is connected to
}

// ask sends a command, which fails if the process is gone.
func (c *worldConsole) ask(ctx context.Context) error {
	if err := c.incarnation.ask(ctx, "console "+c.name); err != nil {
		return err
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.pooler.restarts != c.restarts {
		return errors.New("the connection is closed")
	}
	return nil
}

func (c *worldConsole) Look(ctx context.Context) (PoolerState, error) {
	if err := c.ask(ctx); err != nil {
		return PoolerState{}, err
	}
	leave := c.enter()
	if c.pooler.frozen && len(c.pooler.paused) > 0 {
		leave()
		<-ctx.Done()
		return PoolerState{}, context.Cause(ctx)
	}
	defer leave()
	state := PoolerState{Databases: slices.Clone(c.pooler.databases), QueryWait: c.pooler.queryWait, LoginRetry: c.pooler.retry, AuthQuery: c.pooler.authQuery}
	for i, d := range state.Databases {
		state.Databases[i].Paused = d.Paused || !c.pooler.paused[d.Name].IsZero()
	}
	return state, nil
}

func (c *worldConsole) CheckCommands(ctx context.Context) error {
	if err := c.ask(ctx); err != nil {
		return err
	}
	defer c.enter()()
	if c.pooler.readOnly {
		return pgbouncer.ErrNotAdmin
	}
	c.commands++
	return nil
}

func (c *worldConsole) Oldest(ctx context.Context, _ string) (time.Duration, error) {
	if err := c.ask(ctx); err != nil {
		return 0, err
	}
	defer c.enter()()
	return c.pooler.quiet, nil
}

func (c *worldConsole) Pause(ctx context.Context, database string) error {
	if err := c.ask(ctx); err != nil {
		return err
	}
	leave := c.enter()
	c.sim.checkPause(c, database)
	c.pooler.paused[database] = time.Now()
	c.effect("pause %s/%s", c.name, database)
	longTx, busy, restarts := c.pooler.longTx, c.pooler.busy, c.pooler.restarts
	leave()
	if err := escort.Sleep(ctx, busy); err != nil {
		return err
	}
	if err := c.sim.commits(c, restarts); err != nil {
		return err
	}
	if longTx {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	defer c.enter()()
	return c.answer("pause " + c.name)
}

func (c *worldConsole) Resume(ctx context.Context, database string) error {
	if err := c.ask(ctx); err != nil {
		return err
	}
	leave := c.enter()
	since := c.pooler.paused[database]
	if deaf := c.pooler.deaf && time.Since(since) < cmp.Or(c.pooler.deafFor, 20*time.Second); deaf {
		leave()
		<-ctx.Done()
		return context.Cause(ctx)
	}
	defer leave()
	if !since.IsZero() {
		c.sim.checkResume(c, database)
		c.pooler.longest = max(c.pooler.longest, time.Since(since))
		delete(c.pooler.paused, database)
		c.effect("resume %s/%s", c.name, database)
	}
	return c.answer("resume " + c.name)
}

func (c *worldConsole) Reconnect(ctx context.Context, database string) error {
	if err := c.ask(ctx); err != nil {
		return err
	}
	defer c.enter()()
	c.effect("reconnect %s/%s", c.name, database)
	return nil
}

func (c *worldConsole) SetLoginRetry(ctx context.Context, seconds string) error {
	if err := c.ask(ctx); err != nil {
		return err
	}
	defer c.enter()()
	c.pooler.retry = seconds
	return nil
}

func (c *worldConsole) Close() {}

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
	request := drain.EscortRequest{
		Pod: memberPod(name, "").Pod, Record: w.records[name], Recorded: w.records[name] != nil, Log: e.Log,
		Save: func(ctx context.Context, record json.RawMessage) error {
			if err := i.ask(ctx, "save"); err != nil {
				return err
			}
			defer i.enter()()
			i.records[name] = record
			i.effect("record %t", record != nil)
			return i.answer("save")
		},
	}
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
