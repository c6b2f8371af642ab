package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/test/parts/bubble"
)

const (
	// defaultSeeds is how many seeds run by default. SEEDS overrides it, and FROM the first. SEED=n runs one seed and prints its history.
	defaultSeeds = 300
	// shards run in parallel.
	shards = 4
	// failuresEnd is after how long nothing fails any more. The rest shows that everything is put right.
	failuresEnd = 6 * time.Minute
	// maxSimulation is how long drains last, and sweepsEnd how long sweeps do: the marks of the last moves are over then.
	maxSimulation = 14 * time.Minute
	sweepsEnd     = maxSimulation + lateTime
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
	bubble.Test(t, func(t *testing.T) {
		s = newSimulation(seed)
		s.run(t)
	})
	ended = true
	if s.violation != "" || verbose {
		t.Logf("%+v\n%s\n%v", s.scenario, strings.Join(s.lines, "\n"), s.counts)
	}
	if s.violation != "" {
		t.Errorf("%s\nreplay with: %s", s.violation, replayCommand(seed)) // the other seeds run all the same
	}
	return s.counts
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
			p.databases = append(p.databases, PoolerDatabase{Name: Alias, Host: "pg"})
		}
		w.poolers[string(rune('a'+n))] = p
	}
	s.armKill()
	s.expireAfter, s.world.midway = s.takeover.after, s.midwayAfter
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
	s.running.Go(s.sweep)
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
		if resumed, _, err := e.Resume(ctx); err != nil || len(resumed) > 0 {
			s.note(i.name, fmt.Sprintf("resumed %v", resumed), err)
		}
	}()
	<-done
}

// sweep sweeps each minute, or only at the end, when nothing fails any more.
func (s *simulation) sweep() {
	time.Sleep(time.Duration(s.seed%60) * time.Second)
	for time.Since(s.began) < sweepsEnd {
		if s.sweeps || time.Since(s.began) > failuresEnd {
			s.resume("sweep")
		}
		time.Sleep(time.Minute)
	}
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
