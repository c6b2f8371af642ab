package termination

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

// detaching is a cluster that has seen volumes detached.
type detaching struct {
	Kubernetes
	volumes int
}

func (d detaching) AwaitDetached(context.Context, drain.Node, []drain.Pod) (int, error) {
	return d.volumes, nil
}

func TestAwaitVolumes_SomeDetached_LogSaysHowMany(t *testing.T) {
	for volumes, line := range map[int]string{0: "", 3: "msg=\"volumes detached\" instance=i-0abc1234 group=workers-a node=node-i-0abc1234 volumes=3"} {
		synctest.Test(t, func(t *testing.T) {
			env := newTestEnv()
			h := env.handler()
			var log strings.Builder
			h.Log = slog.New(slog.NewTextHandler(&log, nil))
			h.Connect = func(context.Context) (Kubernetes, error) { return detaching{env, volumes}, nil }
			_, err := invoke(t, h)
			require.NoError(t, err)
			require.Equal(t, line != "", strings.Contains(log.String(), "volumes detached"))
			require.Contains(t, log.String(), line)
		})
	}
}

func TestWithoutNode_InstanceAge_NewUpToTenMinutes(t *testing.T) {
	for age, wasInService := range map[time.Duration]bool{newInstanceAge - 1: false, newInstanceAge: true} {
		synctest.Test(t, func(t *testing.T) {
			j := newTestEnv().handler().newJob(event)
			require.Equal(t, Continue, j.withoutNode(Instance{State: "Terminating:Wait"}, EC2Instance{LaunchedAt: time.Now().Add(-age)}))
			require.Equal(t, StatusNodeNotFound, j.report.Status)
			require.Equal(t, wasInService, j.wasInService, age)
		})
	}
}
