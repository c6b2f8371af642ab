package postgres

import (
	"fmt"
	"math/rand/v2"
	"time"
)

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
	takeover    takeover      // of an invocation's Leases; zero: none
	midway      act           // happens after so many effects, in the middle of a move
	midwayAfter int           // zero: never
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
		s.midwayAfter = 1 + r.IntN(8)
		s.midway = act{what: kinds[r.IntN(len(kinds))], who: memberName(r.IntN(s.memberCount)), span: r.between(time.Second, time.Minute)}
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
		s.drawTakeover(dice{rand.New(rand.NewPCG(seed, 15))})
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
