package pooler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

// Note is what a run records about its pod before it changes anything that outlives the run. It is kept in the instance's Lease.
type Note struct {
	Strategy config.Strategy   `json:"strategy"`
	Owner    escort.Owner      `json:"owner,omitzero"`     // lets go of a pod without its labels
	Paused   bool              `json:"paused,omitempty"`   // the pooler may be
	Labels   map[string]string `json:"labels,omitempty"`   // removed ones, as they were
	Settings map[string]string `json:"settings,omitempty"` // changed ones, as they were
	At       time.Time         `json:"at"`
}

// touched tells whether there is anything in the pooler itself to be put back.
func (n Note) touched() bool { return n.Paused || len(n.Settings) > 0 }

// noteOf returns what an earlier run recorded; nil: nothing. A note that cannot be read stands for everything that can be undone
// without knowing it.
func noteOf(r drain.EscortRequest) *Note {
	if !r.Recorded {
		return nil
	}
	note := &Note{}
	if err := json.Unmarshal(r.Record, note); err != nil {
		return &Note{Paused: true}
	}
	return note
}

// recover undoes what an escort that crashed has left. A surge is gone on with when it is the pod's turn, but its clients
// wait no longer.
func (e *run) recover(ctx context.Context) {
	if e.note == nil {
		return
	}
	e.log.Info("found interrupted escort", "strategy", string(e.note.Strategy), "at", e.note.At)
	undo := e.undo
	if e.note.Strategy == config.StrategySurge {
		undo = e.resumeOnly
	}
	if err := undo(ctx); err != nil {
		e.log.Warn("failed to roll back interrupted escort", "error", err.Error())
	}
}

func (e *run) resumeOnly(ctx context.Context) error {
	if !e.note.Paused {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, undoBudget)
	defer cancel()
	console, err := e.reach(ctx)
	if err != nil {
		return err
	}
	return console.Resume(ctx)
}

// finish goes on with the surge of an escort that crashed. If that is not to be, the pod is as it was before.
func (e *run) finish(ctx context.Context) (done bool, err error) {
	if e.note == nil || e.note.Strategy != config.StrategySurge {
		return false, nil
	}
	if done, err := e.finishSurge(ctx); done || err != nil {
		return done, err
	}
	here, err := e.look(ctx, e.pod.Ref)
	return !here, err
}

// owner is the pod's, or the one it had before labels were taken off.
func (e *run) owner() escort.Owner {
	if e.pod.Owner.UID == "" && e.note != nil {
		return e.note.Owner
	}
	return e.pod.Owner
}

// mark records the note, labels the pod, and removes the labels that the note names.
func (e *run) mark(ctx context.Context, note Note) error {
	note.Owner, note.At = e.owner(), time.Now().UTC()
	text, err := json.Marshal(note)
	if err != nil {
		return fmt.Errorf("record the escort: %w", err)
	}
	e.note = &note // before the requests: one that was not answered may have been heard
	if err := e.request.Save(ctx, text); err != nil {
		return fmt.Errorf("record the escort: %w", err)
	}
	strategy := string(note.Strategy)
	labels := map[string]*string{drain.EscortLabel: &strategy}
	for key := range note.Labels {
		labels[key] = nil
	}
	if err := e.k.PatchLabels(ctx, e.pod.Ref, labels); err != nil {
		return fmt.Errorf("label the pod: %w", err)
	}
	return nil
}

// unmark puts back the labels that the note names, removes ours, and then the record.
func (e *run) unmark(ctx context.Context) error {
	labels := map[string]*string{}
	for key, value := range e.note.Labels {
		labels[key] = &value
	}
	labels[drain.EscortLabel] = nil
	if err := e.k.PatchLabels(ctx, e.pod.Ref, labels); err != nil {
		return fmt.Errorf("restore the pod's labels: %w", err)
	}
	if err := e.request.Save(ctx, nil); err != nil {
		return fmt.Errorf("remove the escort's record: %w", err)
	}
	e.note = nil
	return nil
}

// undoBudget bounds undoing: clients wait meanwhile, and whoever gave up the escort has little time left. It is three times
// what a healthy pooler and API server take on a bad day.
const undoBudget = 3 * time.Second

// undo puts back what the note says, whatever became of ctx: first of all new transactions may begin again. A pooler that
// could not be put back keeps its mark, by which a later slice finds it.
func (e *run) undo(ctx context.Context) error {
	if e.note == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBudget)
	defer cancel()
	err := e.putBack(ctx)
	e.holdBack()
	if err == nil {
		err = e.unmark(ctx)
	}
	if err != nil {
		return fmt.Errorf("undo the escort: %w", err)
	}
	e.log.Info("escort undone")
	return nil
}

// putBack resumes the pooler and restores its settings. A pooler that lets nobody in any more has been restarted or is about to
// end, which resumes it as well.
func (e *run) putBack(ctx context.Context) error {
	if !e.note.touched() {
		return nil
	}
	console, err := e.reach(ctx)
	if err != nil {
		return err
	}
	return errors.Join(e.resume(ctx, console), change(ctx, console, e.note.Settings))
}

func (e *run) resume(ctx context.Context, console *pgbouncer.Console) error {
	if !e.note.Paused {
		return nil
	}
	if e.stopping.pause != nil {
		return console.UndoPause(ctx, e.stopping.pause)
	}
	return console.Resume(ctx)
}

// change changes settings of a pooler, or puts them back. What they were is in the note by then.
func change(ctx context.Context, console *pgbouncer.Console, settings map[string]string) error {
	for name, value := range settings {
		if err := console.Set(ctx, name, value); err != nil {
			return err
		}
	}
	return nil
}

// asTheyAre are the present values of settings that are about to be changed.
func asTheyAre(ctx context.Context, console *pgbouncer.Console, changes map[string]string) (map[string]string, error) {
	were := maps.Clone(changes)
	for name := range changes {
		value, err := console.Setting(ctx, name)
		if err != nil {
			return nil, err
		}
		were[name] = value
	}
	return were, nil
}
