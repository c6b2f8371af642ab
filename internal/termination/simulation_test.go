package termination

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

const (
	// defaultSeeds is how many seeds run by default. SEEDS overrides it. SEED=n runs one seed and prints its history.
	defaultSeeds = 10_000
	// shards run in parallel.
	shards = 8
	// minSimulation is the shortest duration of a simulation.
	minSimulation = 3 * time.Minute
	// maxSimulation is after how long a simulation counts as stuck.
	maxSimulation = 2 * time.Hour
)

// TestSimulation_EverySeed_KeepsPromises runs the whole use case against a cluster and an AWS in memory, once for each seed. The seed
// decides what is to be drained and what fails. The promises (internal/README.md) are checked after every effect, and at the end.
func TestSimulation_EverySeed_KeepsPromises(t *testing.T) {
	if seed := number(t, "SEED", 0); seed > 0 {
		runSeed(t, uint64(seed), true)
		return
	}
	seeds, totals := number(t, "SEEDS", defaultSeeds), &totals{counts: map[string]int{}}
	t.Run("seeds", func(t *testing.T) {
		for shard := range shards {
			t.Run(fmt.Sprintf("shard %d", shard), func(t *testing.T) {
				t.Parallel()
				for seed := shard + 1; seed <= seeds; seed += shards {
					totals.add(runSeed(t, uint64(seed), false))
				}
			})
		}
	})
	t.Logf("%d seeds: %s", seeds, totals)
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

// totals counts what the simulations met.
type totals struct {
	mu     sync.Mutex
	counts map[string]int
}

func (t *totals) add(counts map[string]int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for what, n := range counts {
		t.counts[what] += n
	}
}

func (t *totals) String() string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(t.counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", what, t.counts[what]))
	}
	return strings.Join(parts, ", ")
}

// simulation is the AWS and the cluster of one seed.
type simulation struct {
	scenario

	mu                sync.Mutex
	instances         []*simInstance
	pdbs              []*simPDB
	unsignaled        []*simPod // that were never signaled
	messages          []*simMessage
	sent              int
	arrived           chan struct{} // a message may have become visible
	malformed         map[string]bool
	deadLettered      map[string]bool
	unheardEffects    map[string]bool           // effects whose answer was lost
	reportedRemaining map[string]bool           // pods that any report names as remaining
	groupHolders      map[string]*simInvocation // the invocation that may stop a pooler, by group
	deliveries        int
	began             time.Time
	running           sync.WaitGroup
	lines             []line
	over              bool // no more messages are sent
	drawn             map[string]uint64
	counts            map[string]int
	violation         string // the first broken promise
}

// line is one line of the history. It is formatted only when it is printed.
type line struct {
	at        time.Duration
	by        string
	what, who string
	err       error
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
		s.run(t.Context())
		if s.violation != "" || verbose {
			t.Logf("%s\n%s\n%s", s.scenario, s.history(), describeCounts(s.counts))
		}
		if s.violation != "" {
			t.Fatalf("%s\nreplay with: %s", s.violation, replayCommand(seed))
		}
	})
	ended = true
	return s.counts
}

func describeCounts(counts map[string]int) string { return (&totals{counts: counts}).String() }

func replayCommand(seed uint64) string {
	return fmt.Sprintf("SEED=%d go test -race -v -run TestSimulation_EverySeed_KeepsPromises ./internal/termination", seed)
}

func newSimulation(seed uint64) *simulation {
	s := &simulation{
		scenario: newScenario(seed), arrived: make(chan struct{}, 1), malformed: map[string]bool{}, deadLettered: map[string]bool{},
		unheardEffects: map[string]bool{}, reportedRemaining: map[string]bool{}, groupHolders: map[string]*simInvocation{},
		began: time.Now(), drawn: map[string]uint64{}, counts: map[string]int{},
	}
	for i, plan := range s.pdbPlans {
		s.pdbs = append(s.pdbs, &simPDB{plan: plan, name: fmt.Sprintf("app/budget-%d", i), healthy: plan.spare})
	}
	for i, plan := range s.instancePlans {
		inst := &simInstance{plan: plan, id: fmt.Sprintf("i-%d", i), states: []stateChange{{s.began.Add(-time.Hour), inService}}, lastOut: map[*simInvocation]time.Time{}}
		s.instances = append(s.instances, inst)
		inst.node = s.newNode(inst)
	}
	return s
}

func (s *simulation) run(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, maxSimulation)
	defer cancel()
	for _, inst := range s.instances {
		s.later(inst.plan.terminatedAt, func() { s.terminate(inst) })
		s.scheduleTriggers(inst)
	}
	for _, stray := range s.falseEvents {
		s.later(stray.at, func() { s.sendFalseEvent(stray.kind) })
	}
	var loops sync.WaitGroup
	loops.Go(func() { s.deliver(ctx) })
	loops.Go(func() { s.runSweeps(ctx) })
	for drain.Sleep(ctx, 5*time.Second) == nil && !s.isOver() {
	}
	cancel()
	loops.Wait()
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checkEnd()
}

func (s *simulation) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = s.violation != "" || time.Since(s.began) > minSimulation && s.isFinished()
	return s.over
}

// sendFalseEvent sends an event whose claim is not true.
func (s *simulation) sendFalseEvent(kind string) {
	s.counts["event "+kind]++
	inst := s.instances[0]
	t := Termination{Group: theGroup, Hook: theHook, Token: "forged", InstanceID: inst.id, Began: time.Now()}
	switch kind {
	case "unknown instance":
		t.InstanceID = "i-unknown"
	case "trigger forged":
		t = Termination{InstanceID: inst.id, Began: time.Now(), Trigger: SpotInterruption}
	case "dated back":
		t.Token, t.Began = "", time.Now().Add(-72*time.Hour)
	case "dated ahead":
		t.Token, t.Began = "", time.Now().Add(24*time.Hour)
	case "another group":
		t.Group = "another"
	case "another hook":
		t.Hook = "another"
	case "malformed":
		body := fmt.Sprintf("malformed %d", len(s.malformed))
		s.malformed[body] = !s.over
		s.send(body)
		return
	}
	s.send(encode(t))
}

// runSweeps starts a sweep each minute.
func (s *simulation) runSweeps(ctx context.Context) {
	for drain.Sleep(ctx, time.Minute) == nil {
		s.running.Go(func() { s.invoke(ctx, nil) })
	}
}

var (
	errCrashed = errors.New("crashed")
	errDown    = errors.New("the service is down")
	errRefused = errors.New("too many requests")
	errUnheard = errors.New("the answer was lost")
)

// happens decides by the seed whether the next event of its kind happens.
func (s *simulation) happens(what string, ofThousand int) bool {
	if ofThousand == 0 {
		return false
	}
	s.drawn[what]++
	x := s.seed*0x9E3779B97F4A7C15 ^ s.drawn[what]*0xBF58476D1CE4E5B9 ^ uint64(len(what))*0x94D049BB133111EB
	x ^= x >> 31
	x *= 0xD6E8FEB86659FD93
	x ^= x >> 32
	return x%mille < uint64(ofThousand)
}

// later runs do with the mutex locked, after a while.
func (s *simulation) later(d time.Duration, do func()) { time.AfterFunc(d, s.locked(do)) }

func (s *simulation) locked(do func()) func() {
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		do()
	}
}

func (s *simulation) note(by *simInvocation, what, who string) { s.noteOf(by, what, who, nil) }

func (s *simulation) noteOf(by *simInvocation, what, who string, err error) {
	l := line{at: time.Since(s.began), what: what, who: who, err: err}
	if by != nil {
		l.by = by.name
	}
	s.lines = append(s.lines, l)
}

func (s *simulation) history() string {
	var text strings.Builder
	for _, l := range s.lines {
		fmt.Fprintf(&text, "%9.3fs %-14s %s %s", l.at.Seconds(), l.by, l.what, l.who)
		if l.err != nil {
			fmt.Fprintf(&text, ": %v", l.err)
		}
		text.WriteByte('\n')
	}
	return text.String()
}

func (s *simulation) violate(format string, args ...any) {
	if s.violation == "" {
		s.violation = fmt.Sprintf(format, args...)
		s.note(nil, "BROKEN", s.violation)
	}
}

func (reportReader) Enabled(context.Context, slog.Level) bool { return true }
