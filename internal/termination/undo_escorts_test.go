package termination

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// savingUndoer is an escort that removes its record when it has undone what it names.
type savingUndoer struct {
	undoRecorder
	failure error
}

func (s savingUndoer) Undo(ctx context.Context, p drain.EscortRequest) error {
	if s.failure != nil {
		return s.failure
	}
	return errors.Join(s.undoRecorder.Undo(ctx, p), p.Save(ctx, nil, false))
}

// A person undoes what the escorts of a function did that is gone. AWS is not asked, and the node stays closed.
func TestUndoEscorts_FunctionGone_PodsAreAsTheyWere(t *testing.T) {
	denied := errors.New("the console refuses the login")
	for name, c := range map[string]struct {
		unclosed bool // no node is known by the Lease
		held     bool
		failure  error
		undone   []string
		err      error
		effects  []string
	}{
		"closed node":    {undone: []string{"app/paused"}, effects: []string{"acquire", "undo paused", "release"}},
		"found node":     {unclosed: true, undone: []string{"app/paused"}, effects: []string{"acquire", "undo paused", "release"}},
		"console denied": {failure: denied, err: denied, effects: []string{"acquire", "release"}},
		"held":           {held: true, err: ErrLeaseHeld},
	} {
		bubble.Test(t, func(t *testing.T) {
			env := returnedEnv()
			env.heldElsewhere = c.held
			require.NoError(t, env.records.SetRecord(t.Context(), drain.EscortRecord+"uid-paused", `{"phase":"workloads","escort":{"paused":true}}`))
			env.node.Add(web("paused"), 0).Add(web("web"), 0)
			h := env.handler()
			h.Groups, h.Hooks = nil, nil
			h.Drainer.Phases = []drain.Phase{{Name: "workloads", Escort: savingUndoer{undoRecorder{env: env}, c.failure}}}
			lease := LeaseInfo{Name: event.InstanceID, Closed: env.closed}
			if c.unclosed {
				lease.Closed = nil
			}
			undone, err := h.UndoEscorts(t.Context(), lease)
			require.ErrorIs(t, err, c.err, name)
			if err != nil {
				require.NotContains(t, err.Error(), "no phase", name)
			}
			require.Equal(t, c.undone, undone, name)
			require.Equal(t, c.effects, env.effects(), name)
			if !c.held {
				require.Equal(t, []Keep{KeepAll}, env.kept, name)
				require.NotEmpty(t, env.closed, name)
			}
		})
	}
}

// The phase was removed from the configuration. Its record stays, for a configuration that has it again.
func TestUndoEscorts_NoPhaseHasTheEscort_PodIsNamed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := returnedEnv()
		require.NoError(t, env.records.SetRecord(t.Context(), drain.EscortRecord+"uid-paused", `{"phase":"workloads","escort":{"paused":true}}`))
		env.node.Add(web("paused"), 0)
		undone, err := env.handler().UndoEscorts(t.Context(), LeaseInfo{Name: event.InstanceID, Closed: env.closed})
		require.EqualError(t, err, "no phase of the configuration has the escort of pod app/paused")
		require.Empty(t, undone)
		require.Len(t, env.records.Keys(drain.EscortRecord), 1)
	})
}

// The function may come back. If it cannot list the pods then, only the record keeps it from completing the action. Once the instance is in
// service again, the record protects nothing.
func TestUndoEscorts_OnlyCopy_StaysRecordedWhileTheDrainMayContinue(t *testing.T) {
	const text = `{"phase":"workloads","escort":{"onlyCopy":true},"onlyCopy":true}`
	for name, c := range map[string]struct {
		undo func(*testing.T, *Handler, LeaseInfo) error
		want string
	}{
		"person": {func(t *testing.T, h *Handler, l LeaseInfo) error { _, err := h.UndoEscorts(t.Context(), l); return err }, text},
		"sweep":  {func(t *testing.T, h *Handler, _ LeaseInfo) error { sweepOnce(t, h); return nil }, ""},
	} {
		bubble.Test(t, func(t *testing.T) {
			env := returnedEnv()
			env.closed[0].Hook = "" // a drain by hand: the node stays closed
			require.NoError(t, env.records.SetRecord(t.Context(), drain.EscortRecord+"uid-db", text))
			env.node.Add(web("db"), 0)
			h := env.handler()
			h.Drainer.Phases = []drain.Phase{{Name: "workloads", Escort: savingUndoer{undoRecorder{env: env}, nil}}}
			require.NoError(t, c.undo(t, h, LeaseInfo{Name: event.InstanceID, Closed: env.closed, Escorted: []string{"uid-db"}}), name)
			require.Equal(t, c.want, env.records.Record(drain.EscortRecord+"uid-db"), name)
		})
	}
}

// Nothing is undone on a pod that terminates, and its record ends with it. The configuration has nothing to do with that.
func TestUndoEscorts_PodTerminates_LeftAlone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := returnedEnv()
		require.NoError(t, env.records.SetRecord(t.Context(), drain.EscortRecord+"uid-paused", `{"phase":"workloads","escort":{"paused":true}}`))
		pod := web("paused")
		pod.Deleted = time.Now()
		env.node.Add(pod, 0)
		h := env.handler()
		h.Drainer.Phases = []drain.Phase{{Name: "workloads", Escort: undoRecorder{env: env}}}
		undone, err := h.UndoEscorts(t.Context(), LeaseInfo{Name: event.InstanceID, Closed: env.closed})
		require.NoError(t, err)
		require.Empty(t, undone)
	})
}
