package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

const (
	// defaultSeeds is how many seeds run by default. SEEDS overrides it, and FROM the first. SEED=n runs one seed and prints its history.
	defaultSeeds = 300
	// shards run in parallel.
	shards = 4
	// failuresEnd is after how long nothing fails any more. The rest shows that everything is put right.
	failuresEnd = 6 * time.Minute
	// maxSimulation is how long a simulation lasts.
	maxSimulation = 14 * time.Minute
)

// TestSimulation_EverySeed_KeepsPromises moves primaries in a cluster in memory, once for each seed. The seed decides what fails. Each
// promise is checked at the effect that could break it, and at the end.
func TestSimulation_EverySeed_KeepsPromises(t *testing.T) {
	if seed := number(t, "SEED", 0); seed > 0 {
		runSeed(t, uint64(seed), true)
		return
	}
	from, seeds, counts, mutex := number(t, "FROM", 1), number(t, "SEEDS", defaultSeeds), map[string]int{}, sync.Mutex{}
	t.Run("seeds", func(t *testing.T) {
		for shard := range shards {
			t.Run(fmt.Sprintf("shard %d", shard), func(t *testing.T) {
				t.Parallel()
				for seed := from + shard; seed < from+seeds; seed += shards {
					for what, n := range runSeed(t, uint64(seed), false) {
						mutex.Lock()
						counts[what] += n
						mutex.Unlock()
					}
				}
			})
		}
	})
	t.Logf("%d seeds: %v", seeds, counts)
	for _, what := range exercised {
		if counts[what] == 0 && seeds >= defaultSeeds && !t.Failed() {
			t.Errorf("nothing was met that exercises a promise: %s", what)
		}
	}
}

// exercised are what the default seeds must meet, so that each promise could have been broken.
var exercised = []string{
	"1 resumed by its mover", "1 resumed by another", "1 nothing paused at the end", "2 request with all writes", "2 failover that loses writes",
	"3 request by the key", "3 request over HTTP", "4 primary evicted in the last minutes", "4 replica evicted", "5 resumed with the Lease",
	"5 resumed for a dead holder", "6 paused after its mark", "7 moved and nothing failed", "killed", "maintenance", "somebody else's switchover",
	"Leases taken by a drain", "Leases taken by a sweep", "noticed at once", "noticed late",
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func replayCommand(seed uint64) string {
	return fmt.Sprintf("SEED=%d go test -v -timeout 120s -run TestSimulation_EverySeed_KeepsPromises ./internal/postgres", seed)
}

func runSeed(t *testing.T, seed uint64, verbose bool) map[string]int {
	t.Helper()
	var s *simulation
	ended := false
	defer func() {
		if !ended {
			fmt.Fprintf(os.Stderr, "replay with: %s\n", replayCommand(seed))
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		s = newSimulation(seed)
		s.run(t)
		if s.violation != "" || verbose {
			t.Logf("%+v\n%s\n%v", s.scenario, strings.Join(s.lines, "\n"), s.counts)
		}
		if s.violation != "" {
			t.Fatalf("%s\nreplay with: %s", s.violation, replayCommand(seed))
		}
	})
	ended = true
	return s.counts
}

// scenario is what a seed decides before the simulation starts.
type scenario struct {
	seed        uint64
	clean       bool // nothing fails, and nobody else acts
	rest        bool
	memberCount int
	poolerCount int
	alias       bool
	drained     []string        // members whose nodes are drained, each by a drain of its own
	begins      []time.Duration // when these drains begin
	evictBy     time.Duration   // of each, after its begin; zero: no limit
	rate        float64         // bytes a second that clients write
	speed       map[string]float64
	latency     time.Duration // of each call
	slow        int           // calls of a thousand that take seconds
	failing     int           // calls of a thousand that fail
	unheard     int           // answers of a thousand that are lost
	kills       []int         // after so many effects more the invocation dies
	theft       theft         // of an invocation's Leases; zero: none
	ambush      act           // happens after so many effects, in the middle of a move
	ambushAfter int           // zero: never
	next        time.Duration // after which the next invocation follows; zero: none does
	sweeps      bool
	messages    bool
	pathLag     time.Duration // of kube-proxy after the Service
	streamsIn   time.Duration // until the old primary streams
	acts        []act
}

// act is what happens in the cluster or is done by somebody else.
type act struct {
	at   time.Duration
	what string
	who  string
	span time.Duration
}

var actKinds = []string{
	"down", "frozen", "leader down", "leader frozen", "stalled", "lags", "pooler gone", "pooler restarts", "console hangs", "switchover", "maintenance",
	"long transaction", "quiet transaction",
}

// drawAmbush lets something happen in the few seconds of a move, which acts at any time hardly ever meet.
func (s *scenario) drawAmbush(r dice) {
	kinds := []string{"maintenance", "switchover", "handover", "handover", "pooler restarts", "leader down", "lags", "quiet transaction"}
	if r.one(3) {
		s.ambushAfter = 1 + r.IntN(8)
		s.ambush = act{what: kinds[r.IntN(len(kinds))], who: memberName(r.IntN(s.memberCount)), span: r.between(time.Second, time.Minute)}
	}
}

// dice draws what a seed decides.
type dice struct{ *rand.Rand }

func (d dice) one(of int) bool { return d.IntN(of) == 0 }

func (d dice) between(from, to time.Duration) time.Duration {
	return from + time.Duration(d.Int64N(int64(to-from)))
}

func newScenario(seed uint64) scenario {
	r := dice{rand.New(rand.NewPCG(seed, 14))}
	s := scenario{
		seed: seed, clean: r.one(4), rest: r.one(2), memberCount: 2 + r.IntN(3), poolerCount: r.IntN(4), alias: r.one(2), drained: []string{"pg-0"},
		begins: []time.Duration{r.between(0, 20*time.Second)}, rate: float64(r.IntN(500_000)), speed: map[string]float64{},
		latency: r.between(time.Millisecond, 20*time.Millisecond), next: r.between(time.Second, time.Minute), sweeps: true, messages: true,
		pathLag: r.between(0, time.Second), streamsIn: r.between(0, 15*time.Second),
	}
	for n := range s.memberCount {
		s.speed[memberName(n)] = 10_000_000
	}
	if !s.clean {
		s.drawFailures(r)
		s.drawTheft(dice{rand.New(rand.NewPCG(seed, 15))})
		s.drawAmbush(dice{rand.New(rand.NewPCG(seed, 16))})
	}
	return s
}

func memberName(n int) string { return fmt.Sprintf("pg-%d", n) }

func (s *scenario) drawFailures(r dice) {
	if s.memberCount > 2 && r.one(2) {
		s.drained, s.begins = append(s.drained, "pg-1"), append(s.begins, r.between(0, 40*time.Second))
	}
	if r.one(3) {
		s.evictBy = r.between(5*time.Second, 4*time.Minute)
	}
	if r.one(4) {
		s.latency = r.between(20*time.Millisecond, time.Second)
	}
	for _, rate := range []*int{&s.slow, &s.failing, &s.unheard} {
		if r.one(4) {
			*rate = r.IntN(150)
		}
	}
	if r.one(2) {
		for range 1 + r.IntN(2) {
			s.kills = append(s.kills, 1+r.IntN(16))
		}
	}
	if r.one(10) {
		s.streamsIn = time.Hour
	}
	switch r.IntN(4) {
	case 0:
		s.sweeps, s.messages = false, false
	case 1:
		s.next, s.sweeps = 0, false
	case 2:
		s.next, s.messages = 0, false
	}
	if !s.sweeps && s.next == 0 && !s.messages {
		s.sweeps = true
	}
	for range r.IntN(4) {
		s.acts = append(s.acts, act{r.between(0, 90*time.Second), actKinds[r.IntN(len(actKinds))], memberName(r.IntN(s.memberCount)), r.between(time.Second, time.Minute)})
	}
}

// simulation is the world of one seed, and what is known of it.
type simulation struct {
	scenario
	*world
	t         *testing.T
	began     time.Time
	advanced  time.Time
	stalled   map[string]bool
	pathTo    string // the member that connections of poolers reach
	pooled    LSN    // of the last write that a pooler's client made and that was acknowledged
	slowUntil map[string]time.Time

	promotedAt   time.Time
	asker        *incarnation // that wrote a request last
	askedVersion int          // of the object with that request
	silentSince  time.Time    // the leader does not renew its key
	lastDeath    time.Time
	drawn        map[string]uint64
	counts       map[string]int
	invocations  int
	failed       int // transactions
	steps        map[*incarnation]*steps
	drains       map[string]*takeable // the invocation that has the Lease of a member's instance
	lines        []string
	violation    string
	running      sync.WaitGroup
}

func newSimulation(seed uint64) *simulation {
	w := newWorld()
	s := &simulation{
		scenario: newScenario(seed), world: w, began: time.Now(), advanced: time.Now(), stalled: map[string]bool{}, pathTo: "pg-0", pooled: w.live,
		slowUntil: map[string]time.Time{}, drawn: map[string]uint64{}, counts: map[string]int{}, steps: map[*incarnation]*steps{},
		drains: map[string]*takeable{},
	}
	w.sim, w.leaving = s, slices.Clone(s.drained)
	w.members, w.poolers = map[string]string{}, map[string]*worldPooler{}
	for n := range s.memberCount {
		w.members[memberName(n)] = fmt.Sprintf("10.0.0.1%d", n)
	}
	for n := range s.poolerCount {
		p := newWorldPooler()
		p.busy = time.Duration(n) * 300 * time.Millisecond
		if s.alias {
			p.databases = append(p.databases, PoolerDatabase{Name: Alias, Host: "pg", Port: 5432})
		}
		w.poolers[string(rune('a'+n))] = p
	}
	s.armKill()
	s.steal, s.world.ambush = s.theft.after, s.ambushAfter
	return s
}

func (s *simulation) armKill() {
	if len(s.kills) > 0 {
		s.kill, s.kills = len(s.effects)+s.kills[0], s.kills[1:]
	}
}

func (s *simulation) run(t *testing.T) {
	s.t = t
	ctx, cancel := context.WithTimeout(t.Context(), maxSimulation)
	defer cancel()
	for _, a := range s.acts {
		s.locked(a.at, func() { s.act(a) })
	}
	for n, name := range s.drained {
		s.running.Go(func() { s.drain(ctx, name, s.begins[n]) })
	}
	s.running.Go(func() { s.sweep(ctx) })
	s.running.Wait()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.checkEnd()
}

// drain runs the escort of a member until it is done, as the drain does.
func (s *simulation) drain(ctx context.Context, name string, begin time.Duration) {
	if escort.Sleep(ctx, begin) != nil {
		return
	}
	evictBy := time.Time{}
	if s.evictBy > 0 {
		evictBy = time.Now().Add(s.evictBy)
	}
	s.repeat(ctx, name, evictBy)
}

// repeat runs invocations until the member is gone, or another drain has taken it over.
func (s *simulation) repeat(ctx context.Context, name string, evictBy time.Time) {
	for ctx.Err() == nil && time.Since(s.began) < maxSimulation-2*time.Minute {
		err, alive := s.invoke(ctx, name, evictBy)
		wait := 30 * time.Second
		switch {
		case errors.Is(err, drain.ErrTakenOver):
			return
		case alive && err == nil:
			s.note(name, "drained", nil)
			return
		case !alive && s.next == 0:
			return
		case !alive:
			wait = s.next
		}
		if escort.Sleep(ctx, wait) != nil {
			return
		}
	}
}

// invoke runs the escort of a member once.
func (s *simulation) invoke(ctx context.Context, name string, evictBy time.Time) (err error, alive bool) {
	e, i := s.newInvocation(name)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	ctx, held := s.takeDrain(ctx, i, name, evictBy)
	if !evictBy.IsZero() { // as drain.withEvictTimeout does
		late := time.AfterFunc(time.Until(evictBy.Add(5*time.Second)), cancel)
		defer late.Stop()
	}
	result, err, alive := s.runIn(ctx, s.t, e, i, name, func(r *drain.EscortRequest) {
		r.EvictBy, r.Save = evictBy, s.saveOf(held, r.Save)
	})
	s.note(i.name, fmt.Sprintf("ended, alive %t, held back %.1f s: %s", alive, result.HeldBackSeconds, result.Reason), err)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if alive {
		s.checkOver(i)
	}
	if held.taken {
		return drain.ErrTakenOver, alive
	}
	return err, alive
}

func (s *simulation) newInvocation(name string) (*Escort, *incarnation) {
	e, i := s.escort()
	s.mutex.Lock()
	s.invocations++
	i.name = fmt.Sprintf("%s#%d", name, s.invocations)
	s.mutex.Unlock()
	if s.rest {
		e.Asker, e.ConnectVia = i, config.ViaPodIP
	}
	e.Remind = func(ctx context.Context, after time.Duration) error {
		s.noteReminder(i)
		if err := i.ask(ctx, "remind"); err != nil {
			return err
		}
		defer i.enter()()
		i.effect("remind")
		if s.messages {
			time.AfterFunc(after, func() { s.resume("message") })
		}
		return i.answer("remind")
	}
	return e, i
}

// resume is what a sweep, and a delayed message, do for paused poolers.
func (s *simulation) resume(name string) {
	e, i := s.newInvocation(name)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resumed, err := e.Resume(ctx); err != nil || len(resumed) > 0 {
			s.note(i.name, fmt.Sprintf("resumed %v", resumed), err)
		}
	}()
	<-done
}

// sweep sweeps each minute, or only at the end, when nothing fails any more.
func (s *simulation) sweep(ctx context.Context) {
	_ = escort.Sleep(ctx, time.Duration(s.seed%60)*time.Second)
	for ctx.Err() == nil && time.Since(s.began) < maxSimulation-time.Minute {
		if s.sweeps || time.Since(s.began) > failuresEnd {
			s.resume("sweep")
		}
		_ = escort.Sleep(ctx, time.Minute)
	}
}

var errUnheard = errors.New("the answer was lost")

func (s *simulation) isFailing() bool { return !s.clean && time.Since(s.began) < failuresEnd }

// ask lets a call take its time, or fail before it has an effect. Consoles and members may hang.
func (s *simulation) ask(ctx context.Context, i *incarnation, what string) error {
	wait, failure := s.fate(i, what)
	if err := escort.Sleep(ctx, wait); err != nil {
		return err
	}
	return failure
}

func (s *simulation) fate(i *incarnation, what string) (wait time.Duration, failure error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	name, console := strings.CutPrefix(what, "console ")
	member, live := strings.CutPrefix(what, "live ")
	hangs := console && time.Now().Before(s.slowUntil[name]) || live && (s.frozen[member])
	switch {
	case console && s.poolers[name].gone:
		return s.latency, errors.New("the connection is closed")
	case hangs:
		s.excuse(name)
		return 15 * time.Second, errors.New("no answer")
	case !s.isFailing():
		return s.latency, nil
	case s.happens(i.name+" slow "+what, s.slow):
		s.excuse(name)
		return s.latency + time.Duration(s.draw(i.name+" long "+what)%5000)*time.Millisecond, nil
	case s.happens(i.name+" fail "+what, s.failing):
		s.excuse(name)
		return s.latency, errors.New("the service is down")
	}
	return s.latency, nil
}

// excuse notes that a pooler's console failed. Its clients may wait for that too.
func (s *simulation) excuse(name string) {
	if p := s.poolers[name]; p != nil {
		p.excused = time.Now()
	}
}

// loses reports whether the answer to an effect is lost.
func (s *simulation) loses(i *incarnation, what string) bool {
	if !s.isFailing() || !s.happens(i.name+" lost "+what, s.unheard) {
		return false
	}
	if _, name, ok := strings.Cut(what, " "); ok {
		s.excuse(name)
	}
	s.counts["answer lost"]++
	return true
}

func (s *simulation) happens(what string, ofThousand int) bool {
	return ofThousand > 0 && s.draw(what)%1000 < uint64(ofThousand)
}

// draw returns the next number of its kind, by the seed.
func (s *simulation) draw(what string) uint64 {
	s.drawn[what]++
	x := s.seed*0x9E3779B97F4A7C15 ^ s.drawn[what]*0xBF58476D1CE4E5B9
	for _, c := range what {
		x = (x ^ uint64(c)) * 0x100000001B3
	}
	x ^= x >> 31
	x *= 0xD6E8FEB86659FD93
	return x ^ x>>32
}

func (s *simulation) died(i *incarnation) {
	s.counts["killed"]++
	s.lastDeath = time.Now()
	s.lines = append(s.lines, s.line(i.name, "DIED", nil))
	s.armKill()
}

func (s *simulation) note(by, what string, err error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.lines = append(s.lines, s.line(by, what, err))
}

func (s *simulation) line(by, what string, err error) string {
	text := fmt.Sprintf("%9.3fs %-12s %s", time.Since(s.began).Seconds(), by, what)
	if err != nil {
		text += ": " + err.Error()
	}
	return text
}

func (s *simulation) violate(format string, args ...any) {
	if s.violation == "" {
		s.violation = fmt.Sprintf(format, args...)
		s.lines = append(s.lines, s.line("", "BROKEN "+s.violation, nil))
	}
}

// act does what the seed decided. The caller holds the mutex.
func (s *simulation) act(a act) {
	who, pooler := a.who, s.poolers[string(rune('a'+len(a.who)+int(a.span)%3-4))]
	if strings.HasPrefix(a.what, "leader ") {
		who = s.leader
	}
	s.counts[a.what]++
	s.lines = append(s.lines, s.line("", fmt.Sprintf("%s %s for %v", a.what, who, a.span), nil))
	switch a.what {
	case "down", "leader down":
		s.fall(s.down, who, a.span)
	case "frozen", "leader frozen":
		s.fall(s.frozen, who, a.span)
	case "stalled":
		s.stalled[who] = true
		s.locked(a.span, func() { delete(s.stalled, who) })
	case "lags":
		s.speed[who] = s.rate / 2
		s.locked(a.span, func() { s.speed[who] = 10_000_000 })
	case "switchover":
		s.switchover(who)
	case "handover":
		if to := s.successor(s.leader, who); to != "" && !s.paused {
			s.demoteWithin(a.span%demotionTime, to)
		}
	case "maintenance":
		s.paused = true
		s.locked(2*a.span, func() { s.paused = false })
	}
	if pooler == nil {
		return
	}
	switch a.what {
	case "pooler gone":
		pooler.gone, pooler.paused, pooler.restarts = true, map[string]time.Time{}, pooler.restarts+1
	case "pooler restarts":
		pooler.paused, pooler.restarts, pooler.retry = map[string]time.Time{}, pooler.restarts+1, "15"
	case "console hangs":
		s.slowUntil[string(rune('a'+len(a.who)+int(a.span)%3-4))] = time.Now().Add(a.span)
	case "long transaction":
		pooler.longTx = true
		s.locked(a.span, func() { pooler.longTx = false })
	case "quiet transaction":
		pooler.quiet = a.span
		s.locked(a.span, func() { pooler.quiet = 0 })
	}
}

// fall takes a member out for a while. If it leads, another takes over when its key has expired.
func (s *simulation) fall(out map[string]bool, who string, while time.Duration) {
	if out[who] || slices.Contains(s.evicted, who) {
		return
	}
	out[who] = true
	if who == s.leader && s.silentSince.IsZero() {
		s.silentSince = time.Now()
		for name := range s.members { // what it has written last is not sent yet
			s.lag[name] += LSN(s.rate / 20)
		}
		s.live += LSN(s.rate / 20)
		s.lag[who] = 0
	}
	s.locked(30*time.Second, func() { s.failOver(who) })
	s.locked(while, func() {
		delete(out, who)
		s.starting[who] = time.Now().Add(s.streamsIn)
		if who == s.leader {
			s.silentSince = time.Time{}
		}
	})
}

// failOver promotes another if the leader is silent still. What the leader alone has is lost.
func (s *simulation) failOver(who string) {
	next := s.successor(who, "")
	if who != s.leader || !(s.down[who] || s.frozen[who]) || next == "" || s.paused {
		return
	}
	if s.lag[next] > 0 {
		s.counts["2 failover that loses writes"]++
	}
	s.live -= s.lag[next]
	s.pooled = min(s.pooled, s.live)
	behind := s.lag[next]
	for name := range s.lag {
		s.lag[name] = behind.Behind(s.lag[name])
	}
	s.silentSince, s.stopping = time.Time{}, false
	s.promote(next)
	s.lines = append(s.lines, s.line("", "failover to "+next, nil))
}

// switchover is what patronictl does.
func (s *simulation) switchover(to string) {
	if to == s.leader || len(s.request) > 0 || s.leader == "" {
		return
	}
	s.counts["somebody else's switchover"]++
	s.version++
	s.request = map[string]string{"leader": s.leader, "member": to}
	s.loop(s.began.Add(time.Since(s.began).Truncate(testLoop)+testLoop), s.version, escort.Failover{Leader: s.leader, Candidate: to, At: time.Now()})
}

// advance lets clients write and replicas receive, until now.
func (s *simulation) advance() {
	if s == nil {
		return
	}
	passed := time.Since(s.advanced).Seconds()
	s.advanced = time.Now()
	pooled := s.anyClient()
	if pooled && s.leader != "" && !s.stopping && !s.down[s.leader] && s.pathTo == s.leader {
		written := LSN(s.rate * passed)
		s.live += written
		s.pooled = s.live
		for name := range s.members {
			if name != s.leader {
				s.lag[name] += written
			}
		}
	}
	for name := range s.lag {
		if !s.down[name] && !s.stalled[name] && !s.down[s.leader] {
			s.lag[name] = LSN(s.speed[name] * passed).Behind(s.lag[name])
		}
	}
}

// anyClient reports whether a pooler lets its clients write.
func (s *simulation) anyClient() bool {
	for _, p := range s.poolers {
		if !p.gone && p.paused["app"].IsZero() {
			return true
		}
	}
	return false
}

func (s *simulation) isStalled(name string) bool { return s != nil && s.stalled[name] }

// reaches reports whether a pooler's new connections reach the leader.
func (s *simulation) reaches() bool {
	return s == nil || s.pathTo == s.leader && !s.stopping && !s.down[s.leader]
}

// stops is called when the leader begins to stop.
func (s *simulation) stops() {
	if s != nil && s.anyClient() {
		s.failed++
	}
}

// follows is called when the Service leads to a new leader. kube-proxy follows later.
func (s *simulation) follows(name string) {
	if s == nil {
		return
	}
	s.locked(s.pathLag, func() {
		if s.leader == name {
			s.pathTo = name
		}
	})
}

// promotes is called when a member becomes leader after a clean stop, which ships everything to every member that receives.
func (s *simulation) promotes(name string) {
	if s == nil {
		return
	}
	s.promotedAt = time.Now()
	s.lines = append(s.lines, s.line("", "promoted "+name, nil))
	s.starting[s.leader] = time.Now().Add(s.streamsIn)
	delete(s.lag, name)
	if old := s.serviceTo; old != name {
		s.lag[old], s.starting[old] = 0, time.Now().Add(s.streamsIn)
	}
}

// commits is called when a pooler's open transactions have ended. They wrote something at the end.
func (s *simulation) commits(c *worldConsole, restarts int) error {
	if s == nil {
		return nil
	}
	defer c.enter()()
	if c.pooler.restarts != restarts {
		return errors.New("the connection is closed")
	}
	if s.reaches() {
		s.live += 100
		s.pooled = s.live
		for name := range s.members {
			if name != s.leader {
				s.lag[name] += 100
			}
		}
	}
	return nil
}
