package escort

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

// inspector returns the same pod to every look.
type inspector struct {
	pod *Pod
	err error
}

func (i inspector) Inspect(context.Context, drain.Ref) (*Pod, error) { return i.pod, i.err }

func TestEvict_Refused_ReturnsTheAnswerAsItIs(t *testing.T) {
	lost := errors.New("no answer")
	for name, c := range map[string]struct {
		cluster Inspector
		answer  error
		dryRun  bool
		refused bool
	}{
		"accepted":                          {inspector{}, nil, false, false},
		"blocked":                           {inspector{}, &drain.Blocked{}, false, true},
		"denied, and the pod is gone":       {inspector{}, &drain.Refused{}, false, true},
		"throttled":                         {inspector{}, &drain.Throttled{}, false, true},
		"no answer, and the pod is there":   {inspector{pod: &Pod{}}, lost, false, true},
		"no answer, and the pod terminates": {inspector{pod: &Pod{Pod: drain.Pod{Deleted: time.Now()}}}, lost, false, false},
		"no answer, and the pod is gone":    {inspector{}, lost, false, false},
		"no answer at all":                  {inspector{err: lost}, lost, false, true},
		"no answer to a dry run":            {inspector{}, lost, true, true},
		"no cluster":                        {nil, lost, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			request := drain.EscortRequest{Evict: func(context.Context, drain.EvictOptions) error { return c.answer }}
			err := Evict(t.Context(), c.cluster, request, drain.EvictOptions{DryRun: c.dryRun})
			refusal, refused := errors.AsType[Refusal](err)
			require.Equal(t, c.refused, refused)
			if refused {
				require.Equal(t, c.answer, refusal.Answer)
			} else {
				require.NoError(t, err)
			}
		})
	}
}
