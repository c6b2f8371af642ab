package termination

import (
	"slices"
	"time"

	"quiesce/internal/drain"
)

// step is how far an invocation is with an instance, in the promised order.
type step int

const (
	stepLease step = iota + 1
	stepCordon
	stepEvict
	stepVolumes
	stepComplete
)

// checked is the name under which checks are counted.
const checked = "promise checked"

// checkOrder notes a step, and checks that no earlier one follows it, and that a step of the drain has the lease. While
// volumes are awaited the node may be opened, and pods may come: then it is cordoned and they are evicted.
func (i *simInvocation) checkOrder(inst *simInstance, now step) {
	i.s.counts[checked]++
	if before := i.steps[inst.id]; before > now && !(before == stepVolumes && now >= stepCordon) {
		i.s.violate("%s: step %d of %s after step %d", i.name, now, inst.id, before)
	}
	if i.steps[inst.id] = now; now > stepLease && now < stepComplete && !i.holds[inst.id] && !i.unleased[inst.id] {
		i.s.violate("%s: step %d of %s without its lease", i.name, now, inst.id)
	}
}

// checkWrite checks that nothing is written for an instance that does not terminate.
func (i *simInvocation) checkWrite(inst *simInstance, what string) {
	i.s.counts[checked]++
	if now := inst.state(); now != "Terminating:Wait" && now != "Terminating:Proceed" && !i.wasWaiting(inst) && !i.s.wasTriggered(inst) {
		i.s.violate("%s: %s %s, which is %s", i.name, what, inst.id, now)
	}
}

// wasTriggered reports whether EC2 has sent a trigger for which a drain may begin.
func (s *simulation) wasTriggered(inst *simInstance) bool {
	return !inst.interrupted.IsZero() || s.onRebalance && !inst.recommended.IsZero()
}

// wasWaiting reports whether the instance waited when the invocation could last see it. An answer cannot be newer than its question.
func (i *simInvocation) wasWaiting(inst *simInstance) bool {
	since := time.Now().Add(-i.s.lag - i.s.invocationTime)
	for n, next := range inst.states[1:] {
		if (Instance{State: inst.states[n].name}).isWaiting() && next.since.After(since) {
			return true
		}
	}
	return false
}

func (i *simInvocation) checkAcquire(before *simLease, id string) {
	if !i.verified {
		i.s.violate("%s: acquired the lease of %s before it verified anything", i.name, id)
	}
	if before != nil && !before.holder.dead && before.holder.holds[id] && !before.renewalFailed {
		i.s.violate("%s: took the lease of %s from %s, which is alive", i.name, id, before.holder.name)
	}
	if !i.sweeps {
		inst := i.s.instance(id)
		i.steps[id], i.completed[id] = stepLease, false // it starts again, for another record
		if inst.isWaiting() && inst.action.heldSince.IsZero() {
			inst.action.heldSince = time.Now()
		}
	}
}

// checkDeleteLease checks that only the Lease of an instance that is gone is deleted.
func (i *simInvocation) checkDeleteLease(id string) {
	if inst := i.s.instance(id); !inst.dead {
		i.s.violate("%s: deleted the lease of %s, which runs", i.name, id)
	}
}

// checkCordon checks that a node is closed before its first eviction, and again only if someone has opened it.
func (i *simInvocation) checkCordon(inst *simInstance, node string, closed bool) {
	i.checkWrite(inst, "cordoned")
	if i.steps[inst.id] != stepEvict {
		i.checkOrder(inst, stepCordon)
		return
	}
	if i.s.counts["node cordoned again"]++; closed && !i.s.unheardEffects["cordon "+node] {
		i.s.violate("%s: cordoned %s again, which was closed", i.name, node)
	}
}

// checkRestore checks that only an earlier termination's changes are undone, and no trigger's.
func (i *simInvocation) checkRestore(inst *simInstance) {
	i.s.counts[checked]++
	if inst.isWaiting() && inst.node.closed && !inst.node.cordonedAt.Before(inst.action.began) {
		i.s.violate("%s: restored %s, which is terminating", i.name, inst.id)
	}
	if inst.node.closed && inst.node.hook == "" && i.s.wasTriggered(inst) {
		i.s.violate("%s: restored %s, which is cordoned for a trigger", i.name, inst.id)
	}
}

// checkPodEvent checks that owners are told once about what a drain waits for.
func (i *simInvocation) checkPodEvent(e drain.PodEvent) {
	i.s.counts["owner told: "+string(e.Reason)]++
	e.Message = ""
	if i.told[e] {
		i.s.violate("%s: told the owner of %s twice: %s", i.name, e.Pod, e.Reason)
	}
	i.told[e] = true
	for _, inst := range i.s.instances {
		if p := inst.node.pods[e.Pod.Name]; p != nil {
			i.checkWrite(inst, "told an owner of")
			held := p.Annotations["karpenter.sh/do-not-disrupt"] != ""
			asHeld := e.Reason == drain.EvictionHeld
			if !p.mustGo || asHeld && !held || !asHeld && held && p.evictions == 0 { // when its hold is over, a PDB may block it
				i.s.violate("%s: told the owner of %s: %s", i.name, e.Pod, e.Reason)
			}
		}
	}
}

func (i *simInvocation) checkEvict(inst *simInstance, p *simPod) {
	i.checkWrite(inst, "evicted from")
	if i.s.databases && !i.plain[inst.id] {
		i.checkTainted(inst)
	} else if i.steps[inst.id] < stepCordon && !i.notCordoned[inst.id] {
		i.s.violate("%s: evicted from %s before it was cordoned", i.name, inst.id)
	}
	i.checkOrder(inst, stepEvict)
	if i.evictsSince[inst.id].IsZero() {
		i.evictsSince[inst.id] = time.Now()
	}
	if p == nil {
		return
	}
	i.checkSignal(inst, p)
	i.checkMember(inst, p)
	switch {
	case !p.mustGo:
		i.s.violate("%s: evicted %s, which is to stay", i.name, p.Name)
	case !i.s.escorts || p.plan.phase != "poolers" || i.escorting[p.Name] || i.plain[inst.id]:
	case !i.s.force || !i.s.isTime(inst, i.s.timeNeeded(p)+askTime):
		i.s.violate("%s: evicted %s without its escort", i.name, p.Name)
	}
}

// checkSignal checks that a pod is signaled once. A second request is fine if the answer to the first was lost, or if two invocations
// hold the lease because one could not renew it. (The API server signals the pod once all the same.)
func (i *simInvocation) checkSignal(inst *simInstance, p *simPod) {
	unknown := i.s.unheardEffects["evict "+p.Name] || i.s.unheardEffects["delete "+p.Name]
	if p.Terminating() && !unknown && !inst.hasTwoOwners() {
		i.s.violate("%s: signaled %s twice", i.name, p.Name)
	}
}

func (inst *simInstance) hasTwoOwners() bool {
	alive := 0
	for _, i := range inst.leaseHolders {
		if !i.dead && !i.over {
			alive++
		}
	}
	return alive > 1
}

// checkDelete checks that a deletion is by policy, not in the first half, not untried, and not before all pods under one PDB need it.
func (i *simInvocation) checkDelete(inst *simInstance, p *simPod, grace time.Duration) {
	i.checkWrite(inst, "deleted from")
	i.checkOrder(inst, stepEvict)
	if p == nil {
		return
	}
	i.checkSignal(inst, p)
	i.checkMember(inst, p)
	needs := i.s.timeNeeded(p) + askTime // more pods than requests at once share its moment
	for _, other := range inst.node.pods {
		if other != p && other.pdb != nil && other.pdb == p.pdb {
			needs += i.s.timeNeeded(other)
		}
	}
	switch {
	case !i.s.force:
		i.s.violate("%s: deleted %s, against policy", i.name, p.Name)
	case !i.s.isTime(inst, needs):
		i.s.violate("%s: deleted %s before its moment", i.name, p.Name)
	case p.evictions == 0 && !i.s.hasFailures():
		i.s.violate("%s: deleted %s untried", i.name, p.Name)
	case grace < time.Second || grace > max(p.Grace, time.Second):
		i.s.violate("%s: deleted %s with %s of %s", i.name, p.Name, grace, p.Grace)
	}
}

// askTime is what a drain assumes at most that asking for a pod takes: 2 s for a deletion of which it knows nothing, and what it measured.
const askTime = 3 * time.Second

// timeNeeded returns how long a pod takes to be evicted and stop.
func (s *simulation) timeNeeded(p *simPod) time.Duration {
	needs := max(p.Grace, 2*time.Second) + askTime
	if s.escorts && p.plan.phase == "poolers" {
		needs += escortTime
	}
	if p.plan.database != nil {
		needs += databaseLead
	}
	return needs
}

// timeSpan is the time of a drain.
type timeSpan struct{ began, deadline time.Time }

// timeSpans returns the times of the instance: one for each cause of its end, and one for each drain that a Spot interruption shortened.
func (s *simulation) timeSpans(inst *simInstance) (all []timeSpan) {
	whole := s.bounds.MaxDuration - s.bounds.CompletionReserve
	if inst.action != nil {
		deadline := s.deadline(inst)
		all = append(all, timeSpan{deadline.Add(-whole), deadline})
		if l := inst.node.lease; inst.action.over && l != nil && !l.received.IsZero() && l.received.Before(inst.action.began) {
			// It has no activity any more. So the first receipt counts, which an invocation for an earlier action kept, and then crashed.
			all = append(all, timeSpan{l.received, l.received.Add(whole)})
		}
	}
	if !inst.recommended.IsZero() && s.onRebalance {
		all = append(all, timeSpan{inst.recommended, inst.recommended.Add(whole)})
	}
	if inst.interrupted.IsZero() {
		return all
	}
	goes := inst.interrupted.Add(spotTime)
	for _, other := range slices.Clone(all) {
		all = append(all, timeSpan{other.began, goes})
	}
	return append(all, timeSpan{inst.interrupted, goes})
}

// isTime reports whether, by any of the time spans, a pod that needs so much time may be deleted, and it is not the first half.
func (s *simulation) isTime(inst *simInstance, needs time.Duration) bool {
	now := time.Now()
	return slices.ContainsFunc(s.timeSpans(inst), func(k timeSpan) bool {
		return !now.Before(k.began.Add(k.deadline.Sub(k.began)/2)) && !now.Before(k.deadline.Add(-needs))
	})
}

// hasTime reports whether no deadline is reached.
func (s *simulation) hasTime(inst *simInstance) bool {
	return !slices.ContainsFunc(s.timeSpans(inst), func(k timeSpan) bool { return !time.Now().Before(k.deadline) })
}

// deadline returns the earliest deadline that the instance's action can have. A forged event of an instance that has just begun to terminate
// is true except for its time. Its first receipt counts if the start of the activity cannot be read. So does that of an event, forged or of
// an earlier action, that comes while connections drain. An invocation that waits for such an event to come true counts from its last look.
func (s *simulation) deadline(inst *simInstance) time.Time {
	began := inst.action.began
	for _, at := range inst.receipts {
		if !at.Before(inst.action.activity) && at.Before(began) {
			began = at
		}
	}
	for _, at := range inst.lastOut {
		if inst.action.began.Sub(at) < verifyPace+s.lag+requestLag && !at.Before(inst.action.activity) && at.Before(began) {
			began = at
		}
	}
	for _, stray := range s.falseEvents {
		at := s.began.Add(stray.at)
		switch {
		case !slices.Contains([]string{"in service", "dated back", "dated ahead"}, stray.kind):
			continue
		case s.hasFailures():
		case stray.kind == "in service" && inst == s.instances[0] && at.After(inst.action.activity.Add(-clockTolerance)):
			at = drain.Later(at, inst.action.activity) // the time that it claims counts from there
		default:
			continue
		}
		if at.Before(began) {
			began = at
		}
	}
	return began.Add(min(s.bounds.MaxDuration, s.hook.limit()) - s.bounds.CompletionReserve)
}

// checkComplete checks that an action is completed when the node is empty, or its time is over.
func (i *simInvocation) checkComplete(inst *simInstance, result Result) {
	i.checkOrder(inst, stepComplete)
	inst.node.completedBy, inst.node.completedAt = i, time.Now()
	i.checkClosed(inst)
	i.checkClosedAfterMove(inst)
	over := i.s.deadline(inst)
	if goes := inst.interrupted.Add(spotTime); !inst.interrupted.IsZero() && goes.Before(over) {
		over = goes
	}
	if l := inst.node.lease; i.s.throttled > 0 && l != nil && !l.received.IsZero() && l.received.Before(inst.action.began) {
		// An invocation kept the first receipt of an earlier action, whose drain failed before it closed the node. It counts where the start
		// of the activity cannot be read.
		kept := l.received.Add(i.s.bounds.MaxDuration - i.s.bounds.CompletionReserve)
		if kept.Before(over) {
			over = kept
		}
	}
	lag := reconnectLag + i.s.completionDelay()
	for _, p := range inst.node.pods {
		p.couldNotStopAtCompletion = p.asked && inst.cannotStop(lag)
		if time.Now().Before(over) && p.isWaitedFor(inst, lag) && !inst.plan.nodeLost {
			i.s.violate("%s: completed %s with %s while %s was there and there was time", i.name, inst.id, result, p.Name)
		}
	}
}

// recordonTime is how long a drain may take to close a node again.
const recordonTime = 5 * time.Second

// checkClosed checks that a node that someone opened during its drain is closed again.
func (i *simInvocation) checkClosed(inst *simInstance) {
	n := inst.node
	if i.s.databases || n.closed || n.uncordonedAt.IsZero() || i.s.hasFailures() || i.s.cordonDenied || time.Since(n.uncordonedAt) < recordonTime {
		return
	}
	i.s.violate("%s: completed %s, and its node is open", i.name, inst.id)
}

// For so long a drain waits for an unreachable kubelet, and for a finalizer to be removed.
const (
	unreachableWait = 15 * time.Second
	finalizerWait   = 10 * time.Second
	// reconnectLag is how long a kubelet that is reachable again may still count as unreachable: what follows its drain.
	reconnectLag = 5 * time.Second
)

// completionDelay returns for how long an outage of AWS can have delayed the completion of a drain that had ended. It ends with the next try
// after the outage.
func (s *simulation) completionDelay() (delay time.Duration) {
	since := time.Since(s.began)
	for _, o := range s.outages {
		if o.of == aws && o.from <= since && since < o.to+maxCompleteRetry+requestLag {
			delay = min(completeTimeout, since-o.from)
		}
	}
	return delay
}

// isWaitedFor reports whether the drain must wait for the pod: it must go, and it can still stop, or its eviction was not requested.
func (p *simPod) isWaitedFor(inst *simInstance, lag time.Duration) bool {
	lost := !inst.node.lostAt.IsZero() && time.Since(inst.node.lostAt) >= unreachableWait
	stays := inst.failed || lost || time.Since(inst.node.reconnectedAt) < lag || !p.ContainersEndedAt.IsZero() && time.Since(p.ContainersEndedAt) >= finalizerWait
	return p.mustGo && !(stays && (p.Terminating() || p.asked))
}

// checkCompleteOnce checks that an invocation does not complete an action again after its success.
func (i *simInvocation) checkCompleteOnce(id string) {
	if i.completed[id] {
		i.s.violate("%s: completed %s twice", i.name, id)
	}
}

// firstHeartbeat is how long a lease's holder may take to keep an action alive.
const firstHeartbeat = 5 * time.Second

func (a *simAction) wasHeldFor(d time.Duration) bool {
	return !a.heldSince.IsZero() && time.Since(a.heldSince) > d
}

// checkActionEnd checks that a hook times out only where the seed forces it.
func (s *simulation) checkActionEnd(inst *simInstance, a *simAction) {
	if a.result == "" {
		if s.counts["hook timed out"]++; !s.mayExpire() || (!s.hasFailures() && a.wasHeldFor(firstHeartbeat)) {
			s.violate("the hook of %s timed out", inst.id)
		}
	}
}
