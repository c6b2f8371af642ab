package postgres

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"quiesce/internal/escort"
)

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
		Identity: id, Mode: Endpoints, Version: "4.0.7", Leader: i.leader, TTL: 30 * time.Second, LoopWait: testLoop,
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
	if _, exists := i.members[m.Name]; !exists || i.down[m.Name] || i.unasked {
		return LiveState{}, errors.New("no answer")
	}
	return i.liveState(m.Name), nil
}

func (i *incarnation) liveState(name string) LiveState {
	state := LiveState{Live: true, Role: Replica, State: "streaming", Version: "4.0.7", Timeline: i.timeline, LSN: i.live - i.lag[name], NoFailover: i.noFailover && name != i.leader}
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
		i.mutex.Lock()
		defer i.mutex.Unlock()
		i.looked = true
		return nil, err
	}
	defer i.enter()()
	if name == "pg-failover" {
		i.looked = true
		if i.request == nil {
			return nil, nil
		}
		return &escort.Annotated{ResourceVersion: strconv.Itoa(i.version), Annotations: maps.Clone(i.request)}, nil
	}
	return &escort.Annotated{Annotations: map[string]string{"leader": i.leader}}, nil
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
	if i.behavior == "moved by another" {
		i.promote(f.Candidate)
	}
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
	if w.behavior == "frozen" || w.behavior == "moved by another" { // the next loop is far away
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
			w.sim.checkActs(version)
			w.locked(time.Until(f.At), func() { w.demote(f.Candidate) })
		}
	})
}

// demote switches over to the candidate, or to another if it cannot lead. The caller holds the mutex.
func (w *world) demote(candidate string) { w.demoteWithin(demotionTime, candidate) }

func (w *world) demoteWithin(d time.Duration, candidate string) {
	old := w.leader
	if w.stopping || old == "" {
		return
	}
	w.stopping = true
	w.sim.stops()
	w.locked(d, func() {
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
