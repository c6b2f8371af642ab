package termination

import (
	"fmt"
	"math/rand/v2"
	"time"

	"quiesce/internal/drain"
)

// scenario is what a seed decides before the simulation starts.
type scenario struct {
	seed           uint64
	force          bool
	onFailure      Result
	bounds         Bounds
	hook           Hook
	invocationTime time.Duration // of an invocation
	batch          int           // the most records of an invocation
	lag            time.Duration // of descriptions
	latency        time.Duration // of every request
	detach         time.Duration // until volumes of pods that are gone are detached
	throttled      int           // requests of a thousand that are refused
	answersLost    int           // effects of a thousand whose answer is lost
	crashes        []int         // the n-th invocation for events crashes after so many effects; zero: it does not
	outages        []outage
	instancePlans  []instancePlan
	pdbPlans       []pdbPlan
	falseEvents    []falseEvent

	escorts     bool // poolers have an escort
	databases   bool // there are members of databases
	byTag       bool // the group is ours by its tag
	onRebalance bool // the policy drains for rebalance recommendations
	retains     bool // the group keeps instances whose termination was abandoned

	cordonDenied bool // by a webhook
}

// service receives requests. The first two can fail.
type service int

const (
	aws service = iota
	api
	console // of a pooler
)

func (to service) String() string { return [...]string{"AWS", "the API server", "a console"}[to] }

// outage is a time in which a service answers only errors.
type outage struct {
	of       service
	from, to time.Duration // since the simulation began
}

// instancePlan is one instance and its node.
type instancePlan struct {
	terminatedAt    time.Duration   // when its termination begins
	events          []time.Duration // when its events are sent, after that; none: the event is lost
	deregistration  time.Duration   // for how long connections drain before that
	returns         bool            // its first termination ends in a warm pool, from which it returns and is terminated again
	terminatedAgain time.Duration   // after its return, it is terminated again
	replayed        time.Duration   // after its return, the first action's event is sent again; zero: never
	pods            []podPlan

	hibernates               bool          // it returns with the pods that were running
	otherHook                time.Duration // for how long a second hook keeps it, from the start; zero: there is none
	kubeletLost, kubeletBack time.Duration // when its kubelet becomes unreachable, after its termination began, and for how long; zero: never, for ever
	fails                    time.Duration // when it fails, after its termination began; zero: never
	spot                     bool
	interrupted              time.Duration // when EC2 sends a Spot interruption, since the simulation began; zero: never
	recommended              time.Duration // when EC2 recommends a rebalance; zero: never

	nodeLost   bool            // its Node object names another instance
	claimant   int             // so many of its pods are on a second Node object that claims the instance
	uncordoned []time.Duration // when someone opens the node, after its termination began
}

// podPlan is one pod.
type podPlan struct {
	grace, stop  time.Duration
	phase        string
	pdb          int // an index; below zero: none
	daemon       bool
	held         bool
	finalizer    time.Duration // how long a finalizer keeps it after it has stopped; zero: not; below zero: for ever
	transactions time.Duration // how long its open transactions take
	database     *databasePlan // it is a member of a database; nil: it is not
	refused      time.Duration // until when a webhook denies its eviction, since the simulation began; zero: it does not
}

// pdbPlan is a PDB over pods of any node.
type pdbPlan struct {
	spare int           // pods above those that must be healthy
	ready time.Duration // how long a replacement takes; zero: there is none
}

// falseEvent is an event whose claim is not true.
type falseEvent struct {
	at   time.Duration
	kind string
}

const mille = 1000

// Throttling comes and goes: it lasts so long, of every so long.
const (
	throttledFor   = time.Minute
	throttledEvery = 3 * time.Minute
)

// newScenario draws a scenario. Most seeds have few failures, so that each meets the plain course often enough.
func newScenario(seed uint64) scenario {
	r := dice{rand.New(rand.NewPCG(seed, 6))}
	s := scenario{
		seed: seed, byTag: seed%2 == 1, force: r.one(2), onFailure: Continue, batch: 1 + r.IntN(2),
		invocationTime: r.between(15*time.Second, 2*time.Minute), lag: r.sometimes(3, 0, 20*time.Second),
		latency: r.sometimes(2, time.Millisecond, 400*time.Millisecond),
	}
	if r.one(2) {
		s.onFailure = Abandon
	}
	if r.one(4) {
		s.throttled = r.IntN(200)
	}
	if r.one(4) {
		s.answersLost = r.IntN(200)
	}
	s.bounds = Bounds{
		MaxDuration: r.between(time.Minute, 4*time.Minute), CompletionReserve: r.between(10*time.Second, 30*time.Second),
		NodeJoinTimeout: 5 * time.Second, VolumeDetachTimeout: 10 * time.Second,
	}
	s.drawFailures(r)
	s.hook = s.drawHook(r)
	for range 1 + r.IntN(2) {
		s.pdbPlans = append(s.pdbPlans, pdbPlan{spare: r.IntN(3), ready: r.sometimes(1, time.Second, 40*time.Second)})
	}
	for range 1 + r.IntN(3) {
		s.instancePlans = append(s.instancePlans, s.drawInstance(r))
	}
	for range r.IntN(3) {
		s.falseEvents = append(s.falseEvents, falseEvent{r.between(0, 3*time.Minute), falseEventKinds[r.IntN(len(falseEventKinds))]})
	}
	s.drawMore(dice{rand.New(rand.NewPCG(seed, 7))})
	s.drawRudeness(dice{rand.New(rand.NewPCG(seed, 8))})
	s.drawDatabases()
	s.detach = dice{rand.New(rand.NewPCG(seed, 10))}.sometimes(3, 0, 15*time.Second)
	s.drawDeregistrations(dice{rand.New(rand.NewPCG(seed, 11))})
	return s
}

// drawRudeness draws what others do: forged events, Node objects that say something else, webhooks, people who open a node. Its dice are
// its own.
func (s *scenario) drawRudeness(r dice) {
	for _, kind := range []string{"dated back", "dated ahead"} {
		if r.one(6) {
			s.falseEvents = append(s.falseEvents, falseEvent{r.between(0, 4*time.Minute), kind})
		}
	}
	s.cordonDenied = r.one(12)
	for i := range s.instancePlans {
		m := &s.instancePlans[i]
		switch {
		case r.one(15):
			m.nodeLost = true
		case r.one(10) && len(m.pods) > 0:
			m.claimant = 1 + r.IntN(len(m.pods))
		}
		if r.one(8) {
			for range 1 + r.IntN(3) {
				m.uncordoned = append(m.uncordoned, r.between(0, 3*time.Minute))
			}
		}
		for n := range m.pods {
			if r.one(20) {
				m.pods[n].refused = r.between(time.Minute, 8*time.Minute)
			}
		}
	}
}

// drawMore draws further variations. Its dice are its own, so that a seed stays the same drain.
func (s *scenario) drawMore(r dice) {
	s.escorts, s.onRebalance, s.retains = r.one(2), r.one(2), r.one(2)
	if r.one(6) {
		s.falseEvents = append(s.falseEvents, falseEvent{r.between(0, 3*time.Minute), "trigger forged"})
	}
	for i := range s.instancePlans {
		s.instancePlans[i].drawMore(r)
		for n := range s.instancePlans[i].pods {
			p := &s.instancePlans[i].pods[n]
			p.transactions, p.finalizer = r.between(0, 6*time.Second), r.sometimes(15, time.Second, 40*time.Second)
			if r.one(30) {
				p.finalizer = -1
			}
		}
	}
}

// drawDeregistrations puts instances behind a load balancer. They drain for less long than they are in service before they terminate again.
func (s *scenario) drawDeregistrations(r dice) {
	for i := range s.instancePlans {
		s.instancePlans[i].deregistration = r.sometimes(3, 0, 4*time.Minute)
	}
}

func (m *instancePlan) drawMore(r dice) {
	m.hibernates, m.spot = r.one(2), !m.returns && r.one(3)
	m.otherHook, m.fails = r.sometimes(6, 10*time.Second, 5*time.Minute), r.sometimes(15, 0, 3*time.Minute)
	if m.kubeletLost = r.sometimes(12, time.Second, 2*time.Minute); r.one(2) {
		m.kubeletBack = r.between(5*time.Second, 2*time.Minute)
	}
	if m.spot {
		m.interrupted, m.recommended = r.sometimes(2, time.Second, 4*time.Minute), r.sometimes(3, time.Second, 2*time.Minute)
	}
}

func (s *scenario) drawFailures(r dice) {
	if r.one(2) {
		for range 1 + r.IntN(3) {
			s.crashes = append(s.crashes, r.IntN(16))
		}
	}
	if r.one(3) {
		from := r.between(0, 4*time.Minute)
		s.outages = append(s.outages, outage{service(r.IntN(2)), from, from + r.between(time.Second, time.Minute)})
	}
}

// drawHook draws the hook. One in eight has a timeout so short that failures in a row outlast it.
func (s *scenario) drawHook(r dice) Hook {
	timeout := s.maxSilence() + r.between(0, 5*time.Minute)
	if r.one(8) {
		timeout = r.between(minHeartbeatTimeout, time.Minute)
	}
	return Hook{HeartbeatTimeout: timeout}
}

// maxSilence returns how long failures can keep an instance without a heartbeat. Each crash costs a message's hidden time and a retry of
// the invocation that waits for its lease. An outage costs its length, a failure a delay, and then a sweep follows within the minute.
func (s *scenario) maxSilence() time.Duration {
	total := 2 * time.Minute
	for _, after := range s.crashes {
		if after > 0 {
			total += 2 * (hiddenTime + heldDelay)
		}
	}
	for _, o := range s.outages {
		total += o.to - o.from
	}
	if s.throttled > 0 {
		total += 2 * throttledFor
	}
	if s.answersLost > 0 {
		total += 2 * time.Minute
	}
	return total
}

func (s *scenario) drawInstance(r dice) instancePlan {
	m := instancePlan{terminatedAt: r.between(0, 90*time.Second), returns: r.one(6), terminatedAgain: r.between(5*time.Minute, 8*time.Minute)}
	if !r.one(10) {
		for range 1 + r.IntN(3)/2 {
			m.events = append(m.events, r.between(0, 40*time.Second))
		}
	}
	if r.one(2) {
		m.replayed = r.between(time.Second, 9*time.Minute)
	}
	for range r.IntN(5) {
		m.pods = append(m.pods, s.drawPod(r))
	}
	return m
}

func (s *scenario) drawPod(r dice) podPlan {
	p := podPlan{grace: r.between(time.Second, 50*time.Second), phase: []string{"poolers", "workloads", "critical"}[r.IntN(3)], pdb: -1}
	p.stop = r.between(0, p.grace*5/4)
	if r.one(2) {
		p.pdb = r.IntN(len(s.pdbPlans))
	}
	p.daemon, p.held = r.one(10), r.one(10)
	return p
}

// mayExpire reports whether the hook may time out whatever the function does: its timeout is shorter than failures in a row can last.
func (s *scenario) mayExpire() bool { return s.hook.HeartbeatTimeout < s.maxSilence() }

// dice draws what a seed decides.
type dice struct{ *rand.Rand }

func (d dice) one(of int) bool { return d.IntN(of) == 0 }

func (d dice) between(from, to time.Duration) time.Duration {
	if to <= from {
		return from
	}
	return from + time.Duration(d.Int64N(int64(to-from)))
}

// sometimes returns a time once in so many calls, and otherwise zero.
func (d dice) sometimes(of int, from, to time.Duration) time.Duration {
	if !d.one(of) {
		return 0
	}
	return d.between(from, to)
}

func (i *simInvocation) phases() []drain.Phase {
	labeled := func(phase string) func(drain.Pod) bool {
		return func(p drain.Pod) bool { return p.Labels["phase"] == phase }
	}
	poolers := drain.Phase{Name: "poolers", Match: labeled("poolers"), Settle: 2 * time.Second, Timeout: time.Minute}
	if i.s.escorts {
		poolers.Escort, poolers.Lead = simEscort{i}, escortTime
	}
	var databases []drain.Phase
	if i.s.databases {
		databases = []drain.Phase{{
			Name: "databases", Match: labeled("databases"), Escort: simDatabase{simInvocation: i}, Lead: databaseLead, Keeps: true, DelaysCordon: isPrimary,
		}}
	}
	return append(databases,
		poolers,
		drain.Phase{Name: "workloads", Timeout: time.Minute},
		drain.Phase{Name: "critical", Match: labeled("critical"), Timeout: time.Minute},
	)
}

func (s scenario) String() string {
	return fmt.Sprintf("seed %d: force %t, invocations of %s, hook %s, at most %s less %s, lag %s, "+
		"crashes %v, outages %v, throttled %d, answers lost %d, escorts %t, databases %t, latency %s, on failure %s, retains %t, cordon denied %t\n%+v\nPDBs %+v false events %v",
		s.seed, s.force, s.invocationTime, s.hook.HeartbeatTimeout, s.bounds.MaxDuration, s.bounds.CompletionReserve, s.lag,
		s.crashes, s.outages, s.throttled, s.answersLost, s.escorts, s.databases, s.latency, s.onFailure, s.retains, s.cordonDenied, s.instancePlans, s.pdbPlans, s.falseEvents)
}
