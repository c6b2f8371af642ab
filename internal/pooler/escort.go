package pooler

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

// The strategies that cannot be configured.
const (
	plain    config.Strategy = "plain"    // an eviction without draining, because no console could be used
	shutdown config.Strategy = "shutdown" // a DaemonSet's pgbouncer is shut down in place, without an eviction
)

// Settings are the settings of a phase's escort.
type Settings struct {
	config.PGBouncer
	PhaseTimeout time.Duration // how long a surge waits for its replacement, and a pod for its turn
}

// Escort implements drain.Escort for pgbouncer.
type Escort struct {
	Settings
	Connect func(ctx context.Context) (Kubernetes, error)
	Dial    func(ctx context.Context, address string) (net.Conn, error) // connects to a pod's address
	Logins  escort.Logins
}

// run is the escort of one pod.
type run struct {
	*Escort
	Settings // within the request's limits
	request  drain.EscortRequest
	log      *slog.Logger

	cluster  Kubernetes
	pod      escort.Pod
	selected selection
	version  pgbouncer.Version  // set when the console is open
	console  *pgbouncer.Console // logged in once, before the first change, and kept to the end
	result   drain.EscortResult

	deadline  time.Time // when the escort's time is over
	record    *record   // what is recorded of the pod; nil: nothing
	recovered bool      // pgbouncer is as it was before what is recorded
	labeled   bool      // this run labeled the pod
	load      load
	stop      stop
	evicted   bool // the eviction was accepted: nothing is rolled back any more
	tried     bool // the pod was tried a second time
	last      bool // it is the drain's last step: nothing that hangs may take all of its time
	seen      bool // the pod was looked at since a console was opened, or tried
}

// Run implements drain.Escort.
func (e *Escort) Run(ctx context.Context, request drain.EscortRequest) (drain.EscortResult, error) {
	r := e.begin(request)
	defer r.close()
	err := r.drainPod(ctx)
	r.reportHeldBack()
	return r.result, err
}

// Undo implements drain.Escort.
func (e *Escort) Undo(ctx context.Context, request drain.EscortRequest) error {
	r := e.begin(request)
	if r.record == nil {
		return nil
	}
	defer r.close()
	exists, err := r.findPod(ctx, request.Ref)
	if err != nil || !exists || r.terminating() {
		return err
	}
	return r.rollBack(ctx)
}

// begin limits the settings to the request's: an escort with little time has no time for a replacement.
func (e *Escort) begin(request drain.EscortRequest) *run {
	r := &run{Escort: e, Settings: e.Settings, request: request, log: request.Log, result: drain.EscortResult{Kind: Kind}}
	r.pod.Pod = request.Pod // until it was looked at
	var ignored []string
	if r.record, ignored = recordOf(request); len(ignored) > 0 {
		r.log.Warn("ignored parts of an escort's record that no escort writes", "parts", ignored)
	}
	if request.MaxWait > 0 {
		r.Strategy, r.Timeout = config.StrategyEvict, min(r.Timeout, request.MaxWait)
	}
	return r
}

// drainPod gets one pod off its node. A pod that is terminating already takes no turn, and no other waits for it. Its pod can be terminated
// by others while it waits for its turn.
func (r *run) drainPod(ctx context.Context) error {
	exists, err := r.findPod(ctx, r.request.Ref)
	if err != nil {
		return r.handleError(ctx, err)
	}
	if !exists || r.terminating() {
		return r.drainLeaving(ctx, exists)
	}
	recovered := r.recoverInterrupted(ctx)
	release, err := r.awaitTurn(ctx, r.turnDeadline(ctx))
	if err == nil {
		defer release()
	}
	recovered()
	if err != nil {
		return r.handleError(ctx, err)
	}
	exists, err = r.findPod(ctx, r.request.Ref)
	if err == nil && (!exists || r.terminating()) {
		return r.drainLeaving(ctx, exists)
	}
	if err := r.handleError(ctx, r.drainInTurn(ctx)); err != nil {
		return err
	}
	r.awaitStopped(ctx)
	return nil
}

// drainLeaving drains a pod that is terminating, unless it is gone.
func (r *run) drainLeaving(ctx context.Context, exists bool) error {
	if !exists {
		return nil
	}
	return r.handleError(ctx, r.drainTerminating(ctx))
}

// drainInTurn drains the pod when its turn has come.
func (r *run) drainInTurn(ctx context.Context) error {
	r.setDeadline(ctx, 0)
	err := r.openConsole(ctx)
	if err != nil && r.record.isShuttingDown() {
		return byShutdown{r}.awaitInterrupted(ctx)
	}
	if err != nil {
		return err
	}
	if done, err := r.resumeInterrupted(ctx); done || err != nil {
		return err
	}
	strategy, reason := choose(r.Strategy, r.pdbs(ctx))
	r.addReason(reason)
	if strategy == config.StrategySurge {
		r.result.Strategy = string(config.StrategySurge)
		fallback, err := r.surge(ctx)
		if err != nil || fallback == "" {
			return err
		}
		r.addReason(fallback)
	}
	return r.evictStrategy(ctx)
}

// choose returns the strategy for a pooler whose console is open. With StrategyAuto, that is a surge only if no eviction can succeed.
func choose(configured config.Strategy, pdbs []escort.PDB) (strategy config.Strategy, reason string) {
	if configured == config.StrategySurge || configured == config.StrategyEvict {
		return configured, ""
	}
	for _, pdb := range pdbs {
		if pdb.NeverReason != "" {
			return config.StrategySurge, "PDB " + pdb.Name + " can never allow an eviction: " + pdb.NeverReason
		}
	}
	return config.StrategyEvict, ""
}

// pdbs returns the PDBs that select the pod. It returns none if the lookup fails: the eviction's answer then decides.
func (r *run) pdbs(ctx context.Context) []escort.PDB {
	if r.Strategy == config.StrategySurge || r.Strategy == config.StrategyEvict {
		return nil
	}
	return r.selectorsOrNone(ctx).PDBs
}

// evict evicts the pod, and returns an escort.Refusal if that is not accepted.
func (r *run) evict(ctx context.Context, o drain.EvictOptions) error {
	if err := escort.Evict(ctx, r.cluster, r.request, o); err != nil {
		return err
	}
	if !o.DryRun {
		r.evicted = true
		r.log.Info("pgbouncer evicted", "strategy", r.result.Strategy, "grace", o.Grace.String())
	}
	return nil
}

// handleError turns what interrupted the escort into what Run returns. If the eviction is not accepted yet, it rolls back. Then it
// evicts the pod without draining, unless the eviction was refused or ctx has ended. What ends with the pod is rolled back only if
// that eviction fails too: the time for its requests may be the pod's last. After drain.ErrTakenOver it does nothing.
func (r *run) handleError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(context.Cause(ctx), drain.ErrTakenOver) {
		return drain.ErrTakenOver
	}
	if r.evicted {
		return r.handleErrorAfterEviction(ctx, err)
	}
	refusal, refused := errors.AsType[escort.Refusal](err)
	lost := r.lostConsole()
	if r.record.endsWithPod() && errors.Is(context.Cause(ctx), drain.ErrEscortLate) {
		r.recoverPooler(ctx)
		return context.Cause(ctx)
	}
	if r.record.endsWithPod() && !refused && ctx.Err() == nil {
		if r.recoverPooler(ctx); lost && (r.recovered || r.record == nil) && !r.tried {
			return r.tryAgain(ctx, err)
		}
		if err = r.evictWithoutDrain(ctx, err.Error()); err != nil {
			r.logRollBack(ctx)
		}
		return err
	}
	r.logRollBack(ctx)
	switch {
	case refused:
		return refusal.Answer
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case lost && r.record == nil && !r.tried: // a surge, which is rolled back
		return r.tryAgain(ctx, err)
	default:
		return r.evictWithoutDrain(ctx, err.Error())
	}
}

// lostConsole reports whether a console was open, and is not any more.
func (r *run) lostConsole() bool {
	isLost := func(c *pgbouncer.Console) bool { return c != nil && !c.Usable() }
	return isLost(r.console) || isLost(r.stop.second)
}

// tryAgain drains the pod once more, after its console broke before the eviction. pgbouncer answers on another one: all tunnels end when the API
// server is replaced. An eviction now would abort every open transaction. It has what is left of the escort's time. A surge has its time again,
// since it waits for another replacement.
func (r *run) tryAgain(ctx context.Context, cause error) error {
	r.startOver(cause)
	if r.result.Strategy != string(config.StrategySurge) {
		r.Timeout = max(time.Second, time.Until(r.deadline)-r.preStopDelay())
	}
	return r.handleError(ctx, r.drainInTurn(ctx))
}

// startOver forgets how far the pooler was with stopping, and closes both consoles. All tunnels end when the API server is replaced, but not
// at the same moment: the one that still seems open would break the second try, and there is no third.
func (r *run) startOver(cause error) {
	r.log.Warn("lost the console of pgbouncer, trying again over another", "error", cause.Error())
	r.tried = true
	r.close()
	r.stop = stop{}
}

// logRollBack rolls back, and logs if that fails.
func (r *run) logRollBack(ctx context.Context) {
	if err := r.rollBack(ctx); err != nil {
		r.log.Error("failed to roll back escort", "error", err.Error())
	}
}

// evictWithoutDrain evicts a pod whose console cannot be used.
func (r *run) evictWithoutDrain(ctx context.Context, reason string) error {
	r.result.Strategy = string(plain)
	r.addReason(reason)
	r.log.Warn("cannot drain pgbouncer, evicting without draining", "reason", reason)
	if refusal, refused := errors.AsType[escort.Refusal](r.evict(ctx, drain.EvictOptions{})); refused {
		return refusal.Answer
	}
	return nil
}

// handleErrorAfterEviction leaves the pod to its grace period, unless pgbouncer has exited already.
func (r *run) handleErrorAfterEviction(ctx context.Context, err error) error {
	if r.console != nil && r.console.HasEnded() {
		return nil
	}
	if ctx.Err() == nil {
		r.addReason(err.Error() + "; the grace period decides")
		r.log.Warn("console lost after the eviction, waiting for the grace period", "error", err.Error())
		return nil
	}
	r.finalShutdown(ctx)
	return context.Cause(ctx)
}

// addFailures adds the errors to the reason, but for nil.
func (r *run) addFailures(failures ...error) {
	for _, err := range failures {
		if err != nil {
			r.addReason(escort.Printable(err.Error()))
		}
	}
}

func (r *run) addReason(reason string) { escort.AddReason(&r.result, reason) }
