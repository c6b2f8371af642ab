package pooler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

// record is what a run changes about its pod that outlives the run. It is saved before the change, in the instance's Lease.
type record struct {
	Strategy config.Strategy   `json:"strategy"`
	Owner    escort.Owner      `json:"owner,omitzero"`     // the pod's owner, which orphans a pod without its labels
	Paused   bool              `json:"paused,omitempty"`   // pgbouncer may be paused
	Labels   map[string]string `json:"labels,omitempty"`   // labels that were removed
	Settings map[string]string `json:"settings,omitempty"` // former values of changed settings
	ShutDown time.Time         `json:"shutDown,omitzero"`  // when a surge's shutdown began; zero: it did not
	Process  string            `json:"process,omitempty"`  // of pgbouncer, when its shutdown began
	At       time.Time         `json:"at"`
}

// isShuttingDown reports whether pgbouncer may be waiting for its last transactions. Then it takes no console any more.
func (rec *record) isShuttingDown() bool { return rec != nil && !rec.ShutDown.IsZero() }

// changesPooler reports whether there is anything in pgbouncer itself to restore.
func (rec record) changesPooler() bool { return rec.Paused || len(rec.Settings) > 0 }

// endsWithPod reports whether nothing of the change outlives the pod. A pod without its labels is not protected by its PDBs.
func (rec *record) endsWithPod() bool { return rec == nil || len(rec.Labels) == 0 }

// recoverInterrupted restores pgbouncer as it was before an escort that crashed, so that its clients do not wait for the pod's turn.
// The record stays: this run changes the same again, and two requests fewer matter where little time is left. A surge keeps its
// labels too, and continues when it is the pod's turn. A console that does not answer is tried again until stop: a turn can take minutes.
func (r *run) recoverInterrupted(ctx context.Context) (stop func()) {
	if r.record == nil {
		return func() {}
	}
	r.log.Info("found interrupted escort", "strategy", string(r.record.Strategy), "at", r.record.At)
	r.recoverPooler(ctx)
	ctx, cancel := context.WithCancel(ctx)
	var trying sync.WaitGroup
	var panicked any // it is the escort's, and not the process's
	trying.Go(func() {
		defer func() { panicked = recover() }()
		for !r.recovered && escort.Sleep(ctx, recoverInterval) == nil {
			r.recoverPooler(ctx)
		}
	})
	return func() {
		cancel()
		if trying.Wait(); panicked != nil {
			panic(panicked)
		}
	}
}

// recoverInterval is between two attempts to restore pgbouncer while its pod waits for its turn. Its clients wait meanwhile.
const recoverInterval = time.Second

// isEnding reports whether the pod is known to be terminating or gone. Then its pgbouncer is left as it is. The pod's own hook may have begun a
// shutdown with SIGINT, which pauses pgbouncer first (https://www.pgbouncer.org/usage.html#signals). Before 1.23, a RESUME cancels that, and no
// command shows that one has begun.
func (r *run) isEnding(ctx context.Context) bool {
	return escort.IsTerminating(ctx, r.cluster, r.pod.Ref)
}

// recoverPooler restores pgbouncer, so that its clients wait no longer, and keeps the record. A surge's settings stay.
func (r *run) recoverPooler(ctx context.Context) {
	if r.record == nil || r.recovered || r.isEnding(ctx) {
		return
	}
	restore := r.restorePooler
	if r.record.Strategy == config.StrategySurge {
		restore = r.resumePooler
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollBackTimeout)
	defer cancel()
	if err := restore(ctx); err != nil {
		r.log.Warn("failed to roll back interrupted escort", "error", err.Error())
		return
	}
	r.recovered = true
}

// resumePooler ends a recorded pause, and rolls back nothing else.
func (r *run) resumePooler(ctx context.Context) error {
	if !r.record.Paused {
		return nil
	}
	return r.overConsole(ctx, func(console *pgbouncer.Console) error { return console.Resume(ctx) })
}

// resumeInterrupted continues the surge of a crashed escort. It reports true if the pod is evicted or gone. Otherwise the pod is as
// it was before the surge.
func (r *run) resumeInterrupted(ctx context.Context) (done bool, err error) {
	if r.record == nil || r.record.Strategy != config.StrategySurge {
		return false, nil
	}
	if done, err := r.resumeSurge(ctx); done || err != nil {
		return done, err
	}
	exists, err := r.findPod(ctx, r.pod.Ref)
	return !exists, err
}

// owner returns the pod's owner, or the one it had before labels were removed.
func (r *run) owner() escort.Owner {
	if r.pod.Owner.UID == "" && r.record != nil {
		return r.record.Owner
	}
	return r.pod.Owner
}

// ownedPod returns the pod with its owner as it was before labels were removed.
func (r *run) ownedPod() escort.Pod {
	pod := r.pod
	pod.Owner = r.owner()
	return pod
}

// saveRecord saves the record, labels the pod, and removes the labels that the record names. The escort's label only informs people. So
// without it the escort goes on, unless there are labels to remove.
func (r *run) saveRecord(ctx context.Context, rec record) error {
	if err := r.again(ctx, isUnreached, func() error { return r.writeRecord(ctx, rec) }); err != nil {
		return err
	}
	strategy := string(rec.Strategy)
	if len(rec.Labels) == 0 && r.pod.Labels[drain.EscortLabel] == strategy {
		return nil // an escort that crashed left the label
	}
	labels := map[string]*string{drain.EscortLabel: &strategy}
	for key := range rec.Labels {
		labels[key] = nil
	}
	err := r.bounded(ctx, func(ctx context.Context) error { return r.cluster.PatchLabels(ctx, r.pod.Ref, labels) })
	if err == nil {
		r.labeled = true
		return nil
	}
	err = fmt.Errorf("label the pod: %w", err)
	if len(rec.Labels) > 0 || ctx.Err() != nil {
		return err
	}
	reason := escort.Printable(err.Error()) // a webhook's words are in it
	r.log.Warn("failed to label the pod of an escort", "error", reason)
	r.addReason(reason)
	return nil
}

// writeRecord saves the record alone.
func (r *run) writeRecord(ctx context.Context, rec record) error {
	rec.Owner, rec.At = r.owner(), time.Now().UTC()
	text, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("record the escort: %w", err)
	}
	r.record, r.recovered = &rec, false // before the request: one without an answer may have succeeded
	if err := r.bounded(ctx, func(ctx context.Context) error { return r.request.Save(ctx, text, false) }); err != nil {
		return fmt.Errorf("record the escort: %w", err)
	}
	return nil
}

// bounded makes a request within half of what is left of the time, if it is the drain's last step: a request that hangs must leave time for a
// shutdown without it.
func (r *run) bounded(ctx context.Context, request func(context.Context) error) error {
	end, limited := ctx.Deadline()
	if !r.last || !limited {
		return request(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Until(end)/2)
	defer cancel()
	return request(ctx)
}

// clearRecord restores the labels that the record names, removes the escort's label, and then the record. A failure to change the labels
// matters only if any was changed.
func (r *run) clearRecord(ctx context.Context) error {
	labels := map[string]*string{}
	for key, value := range r.record.Labels {
		labels[key] = &value
	}
	labels[drain.EscortLabel] = nil
	changed := r.labeled || r.pod.Labels[drain.EscortLabel] != "" || len(r.record.Labels) > 0
	err := r.bounded(ctx, func(ctx context.Context) error { return r.cluster.PatchLabels(ctx, r.pod.Ref, labels) })
	if err != nil && changed {
		return fmt.Errorf("restore the pod's labels: %w", err)
	}
	if err := r.bounded(ctx, func(ctx context.Context) error { return r.request.Save(ctx, nil, false) }); err != nil {
		return fmt.Errorf("remove the escort's record: %w", err)
	}
	r.record = nil
	return nil
}

// rollBackTimeout bounds a rollback. Clients wait meanwhile, and the invocation may have little time left. It is three times what a
// healthy pooler and API server take on a bad day.
const rollBackTimeout = 3 * time.Second

// rollBack restores what the record names, even if ctx has ended. New transactions may begin first. If that fails, the record stays,
// and a later invocation finds it. What a pod that is terminating changed ends with it.
func (r *run) rollBack(ctx context.Context) error {
	if r.record == nil || r.isEnding(ctx) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollBackTimeout)
	defer cancel()
	err := r.restorePooler(ctx)
	r.reportHeldBack()
	if err == nil {
		err = r.clearRecord(ctx)
	}
	if err != nil {
		return fmt.Errorf("roll back the escort: %w", err)
	}
	r.log.Info("escort rolled back")
	return nil
}

// restorePooler resumes pgbouncer and restores its settings. If the console accepts no login any more, pgbouncer has restarted or is
// about to exit, which ends a pause too.
func (r *run) restorePooler(ctx context.Context) error {
	if !r.record.changesPooler() {
		return nil
	}
	return r.overConsole(ctx, func(console *pgbouncer.Console) error {
		return errors.Join(r.endPause(ctx, console), applySettings(ctx, console, r.record.Settings))
	})
}

// overConsole does something over the open console, or over a new one. The network may have ended the open one, and the first command notices:
// then it does it over another.
func (r *run) overConsole(ctx context.Context, do func(*pgbouncer.Console) error) error {
	for first := true; ; first = false {
		console, err := r.ensureConsole(ctx)
		if err != nil {
			return err
		}
		if err := do(console); err == nil || !first || !console.HasEnded() {
			return err
		}
	}
}

func (r *run) endPause(ctx context.Context, console *pgbouncer.Console) error {
	if !r.record.Paused {
		return nil
	}
	if r.stop.pause != nil {
		return console.UndoPause(ctx, r.stop.pause)
	}
	return console.Resume(ctx)
}

// applySettings changes or restores settings of pgbouncer. Their former values are in the record by then.
func applySettings(ctx context.Context, console *pgbouncer.Console, settings map[string]string) error {
	for name, value := range settings {
		if err := console.Set(ctx, name, value); err != nil {
			return err
		}
	}
	return nil
}

// currentSettings returns the present values of settings that are about to change. A value that could not be written back is an error.
func currentSettings(ctx context.Context, console *pgbouncer.Console, changes map[string]string) (map[string]string, error) {
	current := maps.Clone(changes)
	for name := range changes {
		value, err := console.Setting(ctx, name)
		if err == nil {
			err = pgbouncer.CheckSetting(name, value)
		}
		if err != nil {
			return nil, err
		}
		current[name] = value
	}
	return current, nil
}
