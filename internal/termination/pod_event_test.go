package termination

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// batch returns a pod that is held.
func batch(name string) drain.Pod {
	p := web(name)
	p.Annotations = map[string]string{"karpenter.sh/do-not-disrupt": "true"}
	return p
}

// behindPDB returns a pod whose PDB allows no disruption.
func (env *testEnv) behindPDB(name string) drain.Pod {
	p := web(name)
	p.Labels = map[string]string{"budget": "b"}
	env.node.Allow("b", 0)
	return p
}

func TestOwners_PodsHeldAndBlocked_ToldBesideTheDrain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(batch("batch"), 0).Add(env.behindPDB("web"), 0)
		h := env.handler()
		h.Policy.Force, h.Policy.Bounds.MaxDuration = true, 10*time.Minute
		began := time.Now()
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusForced, report.Status)
		require.Len(t, env.podEvents, 2)
		require.Equal(t, drain.EvictionHeld, env.podEvents[0].Reason)
		require.Equal(t, "app/batch", env.podEvents[0].Pod.String())
		require.Equal(t, drain.EvictionBlocked, env.podEvents[1].Reason)
		require.Equal(t, "app/web", env.podEvents[1].Pod.String())
		require.Contains(t, env.podEvents[1].Message, "Node "+report.Node+" is being drained")
		require.Equal(t, began, env.podEvents[1].Began)
	})
}

// The second invocation tells again, and cannot know whether the first one's request arrived. The API server keeps one event of a name.
func TestOwners_HandOff_EventsAreTheSame(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(batch("batch"), 0).Add(env.behindPDB("web"), 0)
		h := env.handler()
		began := time.Now()
		for n := range 2 {
			parseAs(h, Record{Receives: n + 1, Termination: &Termination{
				Group: event.Group, Hook: event.Hook, Token: event.Token, InstanceID: event.InstanceID, Began: began,
			}})
			_, _ = invoke(t, h)
		}
		require.Len(t, env.podEvents, 4)
		require.Equal(t, env.podEvents[:2], env.podEvents[2:])
	})
}

func TestOwners_PermissionMissing_SaidOnceAndDrained(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		for n := range 20 {
			env.node.Add(batch(fmt.Sprint("batch-", n)), 0)
		}
		env.node.Add(web("web"), 0)
		env.failAlways("pod event", errors.New("cannot create resource events"))
		var log bytes.Buffer
		h := env.handler()
		h.Log = slog.New(slog.NewTextHandler(&log, nil))
		h.Policy.Force, h.Policy.Bounds.MaxDuration = true, 5*time.Minute
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Empty(t, report.Reason)
		require.Len(t, env.podEvents, 20)
		require.Equal(t, 1, strings.Count(log.String(), "failed to create Kubernetes event about a pod"), log.String())
		require.Contains(t, log.String(), "cannot create resource events")
	})
}

// An API server that does not answer must not slow the drain, and is not given more and more requests.
func TestOwners_NoAnswer_DrainNotSlowed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		for n := range 20 {
			env.node.Add(batch(fmt.Sprint("batch-", n)), 0)
		}
		time.AfterFunc(12*time.Second, func() {
			for n := range 20 {
				env.node.Remove(fmt.Sprint("app/batch-", n))
			}
		})
		env.hangs = map[string]bool{"pod event": true}
		began := time.Now()
		report, err := invoke(t, env.handler())
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, 12*time.Second, time.Since(began))
		require.Len(t, env.podEvents, 6, "two at once, five seconds each")
	})
}

func TestOwners_ShadowModeOrUncleanEnds_NotTold(t *testing.T) {
	for name, change := range map[string]func(*testEnv, *Handler){
		"shadow mode":  func(_ *testEnv, h *Handler) { h.Policy.Shadow = true },
		"unclean ends": func(env *testEnv, _ *Handler) { env.uncleanEnds = uncleanWithoutEscorts },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				env := newTestEnv()
				env.node.Add(batch("batch"), 0)
				h := env.handler()
				h.Policy.Force, h.Policy.Bounds.MaxDuration = true, 5*time.Minute
				change(env, h)
				_, err := invoke(t, h)
				require.NoError(t, err)
				require.Empty(t, env.podEvents)
			})
		})
	}
}
