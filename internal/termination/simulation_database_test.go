package termination

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"time"

	"quiesce/internal/drain"
)

const (
	// databaseLead is the time of the last acts of a database's escort.
	databaseLead = 5 * time.Second
	// heldLongEnough is after how long a hold other pods must have been asked to leave.
	heldLongEnough = 20 * time.Second
)

// databasePlan is a member of a database. Its escort holds it until something happens, or to the end.
type databasePlan struct {
	primary bool          // its operator answers a cordon
	movesAt time.Duration // when it may go, since the simulation began; beyond the end: never
}

// drawDatabases makes some pods members of databases. Its dice are its own, and seeds without databases stay as they were.
func (s *scenario) drawDatabases() {
	r := dice{rand.New(rand.NewPCG(s.seed, 9))}
	if s.databases = r.one(3); !s.databases {
		return
	}
	for i := range s.instancePlans {
		for n := range s.instancePlans[i].pods {
			p := &s.instancePlans[i].pods[n]
			if p.daemon || p.held || !r.one(3) {
				continue
			}
			p.phase, p.database = "databases", &databasePlan{primary: r.one(2), movesAt: r.between(0, 6*time.Minute)}
			if r.one(3) {
				p.database.movesAt = maxSimulation
			}
		}
	}
}

// isPrimary reports whether the pod's label says that it leads.
func isPrimary(p drain.Pod) bool { return p.Labels["role"] == "primary" }

// simDatabase holds members of databases as the real escort does: until they may go, or to the last moments.
type simDatabase struct {
	*simInvocation
}

// Run implements drain.Escort.
func (e simDatabase) Run(ctx context.Context, p drain.EscortRequest) (drain.EscortResult, error) {
	done := drain.EscortResult{Strategy: "switchover"}
	if p.Terminating() {
		return done, nil
	}
	last := !p.EvictBy.IsZero() && !time.Now().Before(p.EvictBy)
	if !e.mayGo(p.Ref) && !last {
		e.s.locked(func() {
			e.s.counts["member of a database held"]++
			if pod := e.s.pod(p.Ref); pod != nil && pod.heldSince.IsZero() {
				pod.heldSince = time.Now()
			}
		})()
		return done, &drain.Held{Reason: "no replica is near enough"}
	}
	if !last && isPrimary(p.Pod) {
		if err := e.move(ctx, p); err != nil {
			return done, &drain.Held{Reason: err.Error()}
		}
	}
	return done, p.Evict(ctx, drain.EvictOptions{Grace: p.Grace})
}

// ShutDown, Undo and Advise have nothing to do.
func (e simDatabase) ShutDown(context.Context, drain.EscortRequest) (drain.EscortResult, error) {
	return drain.EscortResult{}, errors.New("no member is a DaemonSet's")
}
func (e simDatabase) Undo(context.Context, drain.EscortRequest) error { return nil }
func (e simDatabase) Advise(context.Context, drain.Pod) []string      { return nil }

func (e simDatabase) mayGo(ref drain.Ref) (may bool) {
	e.s.locked(func() {
		pod := e.s.pod(ref)
		may = pod == nil || pod.plan.database == nil || time.Since(e.s.began) >= pod.plan.database.movesAt
	})()
	return may
}

// move makes the pod a replica.
func (e simDatabase) move(ctx context.Context, p drain.EscortRequest) error {
	return e.effect(ctx, api, "move", p.Name, func() error {
		if pod := e.s.pod(p.Ref); pod != nil {
			e.s.counts["primary moved"]++
			pod.Labels = maps.Clone(pod.Labels) // other goroutines read it
			pod.Labels["role"] = "replica"
			e.s.instanceOfPod(pod).node.primaryLeftAt = time.Now()
			e.s.changedAll()
		}
		return nil
	})
}

// delaysCordon reports whether a primary that this invocation's drain would move is on the Node object.
func (i *simInvocation) delaysCordon(inst *simInstance, node string) bool {
	return i.hasPrimary(inst, node, func(*simPod) bool { return true })
}

// hasPrimary is delaysCordon for some primaries.
func (i *simInvocation) hasPrimary(inst *simInstance, node string, counts func(*simPod) bool) bool {
	if !i.s.databases || i.plain[inst.id] {
		return false
	}
	for _, p := range inst.node.pods {
		on := p.on
		if on == "" {
			on = inst.node.name
		}
		if on == node && isPrimary(p.Pod) && !p.Terminating() && counts(p) {
			return true
		}
	}
	return false
}

// checkNoPrimary checks that a node is not cordoned while it has a primary, unless its PDB refused this drain's eviction.
func (i *simInvocation) checkNoPrimary(inst *simInstance, node string) {
	i.s.counts[checked]++
	if i.hasPrimary(inst, node, func(p *simPod) bool { return p.blockedTo != i }) {
		i.s.violate("%s: cordoned %s, which has a primary", i.name, node)
	}
}

// checkClosedAfterMove checks that a node was cordoned when its primaries had gone, or had been told to stop.
func (i *simInvocation) checkClosedAfterMove(inst *simInstance) {
	n, since := inst.node, i.evictsSince[inst.id]
	for _, at := range []time.Time{n.primaryLeftAt, n.uncordonedAt} {
		if at.After(since) {
			since = at
		}
	}
	if !i.s.databases || n.closed || i.s.hasFailures() || i.s.cordonDenied || inst.plan.nodeLost || i.delaysCordon(inst, n.name) ||
		i.evictsSince[inst.id].IsZero() || time.Since(since) < recordonTime {
		return
	}
	i.s.violate("%s: completed %s, and its node was not cordoned after its primary had moved", i.name, inst.id)
}

// checkTainted checks that a node that is not cordoned yet was tainted before its first eviction.
func (i *simInvocation) checkTainted(inst *simInstance) {
	if !inst.dead && i.steps[inst.id] < stepCordon && !i.notCordoned[inst.id] && !inst.node.tainted && !i.s.hasFailures() {
		i.s.violate("%s: evicted from %s before it was cordoned or tainted", i.name, inst.id)
	}
}

// checkMember checks that a member of a database is told to stop when it may go, or in the last moments. By then the other pods were asked,
// unless they wait for a pod that is stopping.
// On a machine that is gone, nobody is told anything.
func (i *simInvocation) checkMember(inst *simInstance, p *simPod) {
	d := p.plan.database
	if d == nil || inst.dead || time.Since(i.s.began) >= d.movesAt {
		return
	}
	i.s.counts["member of a database stopped in the last moments"]++
	if !i.s.isTime(inst, i.s.timeNeeded(p)+askTime) {
		i.s.violate("%s: told %s to stop, which is held", i.name, p.Name)
	}
	if p.heldSince.IsZero() || time.Since(p.heldSince) < heldLongEnough || i.s.hasFailures() || i.plain[inst.id] {
		return
	}
	for _, other := range inst.node.pods {
		if other.on == p.on && (!other.isOrdinary() || i.isMoving(other) || other.Terminating()) {
			return
		}
	}
	for _, other := range inst.node.pods {
		if other.on == p.on && other.plan.database == nil && other.mustGo && !other.asked && !other.Terminating() {
			i.s.violate("%s: %s waits for %s, which is held", i.name, other.Name, p.Name)
		}
	}
	i.s.counts["others left while a member was held"]++
}

// restartHolds begins anew to count for how long the members on a pod's node have been held. Until now others may have waited for this pod,
// whose phase may also have a pause after it.
func (s *simulation) restartHolds(gone *simPod) {
	for _, inst := range s.instances {
		for _, p := range inst.node.pods {
			if p.on == gone.on && !p.heldSince.IsZero() {
				p.heldSince = time.Now()
			}
		}
	}
}

// isMoving reports whether the member may go and is still there. Then its phase is not over, such as while a PDB blocks it.
func (i *simInvocation) isMoving(p *simPod) bool {
	return p.plan.database != nil && time.Since(i.s.began) >= p.plan.database.movesAt
}

// isOrdinary reports whether nothing but a phase before its own can keep the pod from its eviction.
func (p *simPod) isOrdinary() bool {
	return p.plan.database != nil || p.plan.daemon ||
		p.pdb == nil && p.plan.refused == 0 && !p.plan.held && p.plan.finalizer == 0 && p.plan.phase != "poolers"
}
