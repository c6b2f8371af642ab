package drain

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// texts are records in memory.
type texts map[string]string

func (t texts) Record(key string) string { return t[key] }

func (t texts) SetRecord(_ context.Context, key, text string) error {
	if t == nil {
		return errors.New("the Lease is another's")
	}
	t[key] = text
	return nil
}

func TestSaveClocks_NextInvocation_ReadsThem(t *testing.T) {
	began := time.Now().UTC()
	kept, node := texts{}, Node{Name: "node-a", UID: "n"}
	clocks := []Clock{{Began: began, Emptied: began.Add(time.Minute)}, {Began: began.Add(time.Hour)}, {}}
	d := Drainer{Phases: []Phase{{Name: "a"}, {Name: "b"}, {Name: "c"}}, Records: kept, Limits: Limits{StartedAt: began}}
	require.NoError(t, d.SaveClocks(t.Context(), node, State{clocks: clocks}))
	require.Equal(t, clocks, d.recordedClocks(node))
	require.Nil(t, d.recordedClocks(Node{Name: "node-b", UID: "m"}))

	d.Phases = d.Phases[1:]
	require.Equal(t, clocks[1:], d.recordedClocks(node), "the configuration has changed")
	d.Limits.StartedAt = began.Add(2 * time.Hour)
	require.Nil(t, d.recordedClocks(node), "it is of an earlier termination, which crashed")
	kept[PhasesRecord+"n"] = "{"
	require.Nil(t, d.recordedClocks(node))
}

func TestSaveClocks_NothingToKeep_WritesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		phases []Phase
		clocks []Clock
	}{
		"one phase":      {[]Phase{{Name: "a"}}, []Clock{{Began: time.Now()}}},
		"none has begun": {[]Phase{{Name: "a"}, {Name: "b"}}, []Clock{{}, {}}},
		"no drain ran":   {[]Phase{{Name: "a"}, {Name: "b"}}, nil},
	} {
		kept := texts{}
		require.NoError(t, Drainer{Phases: c.phases, Records: kept}.SaveClocks(t.Context(), Node{UID: "n"}, State{clocks: c.clocks}), name)
		require.Empty(t, kept, name)
	}
	d := Drainer{Phases: []Phase{{Name: "a"}, {Name: "b"}}, Records: texts(nil)}
	err := d.SaveClocks(t.Context(), Node{Name: "node-a", UID: "n"}, State{clocks: []Clock{{Began: time.Now()}, {}}})
	require.ErrorContains(t, err, "record when the phases of node node-a began: the Lease is another's")
}
