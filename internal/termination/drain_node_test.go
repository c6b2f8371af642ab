package termination

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
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
		bubble.Test(t, func(t *testing.T) {
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

// Two VPCs may have the same addresses, and then instances of the same name.
func TestDrain_NodeOfTheNameClaimsAnotherInstance_OursIfThatIsGone(t *testing.T) {
	for name, c := range map[string]struct {
		claims string
		gone   bool
		want   Status
	}{
		"it runs, in another VPC": {"i-0fffffff", false, StatusNodeNotFound},
		"EC2 does not know it":    {"i-0fffffff", true, StatusDrained},
		"no instance has this ID": {"i-*", false, StatusDrained},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				env := newTestEnv()
				env.claims, env.claimsGone = c.claims, c.gone
				env.node.Add(web("web"), time.Second)
				report, err := invoke(t, env.handler())
				require.NoError(t, err)
				require.Equal(t, c.want, report.Status, report.Reason)
				require.Equal(t, c.want == StatusDrained, slices.Contains(env.node.Log(), "evict app/web"))
				require.Equal(t, c.want == StatusNodeNotFound, strings.Contains(report.Reason, "is that of i-0fffffff"), report.Reason)
			})
		})
	}
}

// Whose node it is cannot be known while EC2 does not answer.
func TestSearchNodes_EC2DoesNotAnswer_Error(t *testing.T) {
	env := newTestEnv()
	env.claims = "i-0fffffff"
	env.errors["ec2"] = []error{errors.New("RequestLimitExceeded")}
	h := env.handler()
	_, err := h.searchNodes(t.Context(), env, event.InstanceID, EC2Instance{PrivateDNS: "node-" + event.InstanceID})
	require.ErrorContains(t, err, "ask EC2 about i-0fffffff")
	require.ErrorContains(t, err, "RequestLimitExceeded")
}

func TestWithoutNode_InstanceAge_NewUpToTenMinutes(t *testing.T) {
	for age, wasInService := range map[time.Duration]bool{newInstanceAge - 1: false, newInstanceAge: true} {
		bubble.Test(t, func(t *testing.T) {
			j := newTestEnv().handler().newJob(event)
			require.Equal(t, Continue, j.withoutNode(Instance{State: "Terminating:Wait"}, EC2Instance{LaunchedAt: time.Now().Add(-age)}))
			require.Equal(t, StatusNodeNotFound, j.report.Status)
			require.Equal(t, wasInService, j.wasInService, age)
		})
	}
}

// The node has no provider ID, so only EC2 tells that it is the instance's. Throttled EC2 does not say that there is no node.
func TestAwaitNodes_EC2AnswersLate_NodeFound(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.node.Add(web("web"), time.Second)
		heal := env.failAlways("ec2", errors.New("RequestLimitExceeded"))
		time.AfterFunc(5*time.Second, heal)
		h := env.handler()
		h.Connect = func(context.Context) (Kubernetes, error) { return knownByName{env}, nil }
		report, err := invoke(t, h)
		require.NoError(t, err)
		require.Equal(t, StatusDrained, report.Status)
		require.Equal(t, 1, count(env.effects(), "evict app/web"))
	})
}

func TestAwaitNodes_EC2NeverAnswers_FailedAndTriedAgainUntilTheDeadline(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.failAlways("ec2", errors.New("RequestLimitExceeded"))
		h := env.handler()
		h.Connect = func(context.Context) (Kubernetes, error) { return knownByName{env}, nil }
		first := event
		first.Began = time.Now()
		report, err := deliver(t, h, Record{Termination: &first, FirstReceived: first.Began})
		require.ErrorContains(t, err, "EC2 did not answer: RequestLimitExceeded")
		require.Equal(t, StatusFailed, report.Status)
		require.Empty(t, env.completed)
		time.Sleep(time.Hour)
		_, err = deliver(t, h, Record{Termination: &first, FirstReceived: first.Began})
		require.NoError(t, err)
		require.Len(t, env.completed, 1)
	})
}

// knownByName is a cluster whose nodes are found only by the name that EC2 tells.
type knownByName struct{ *testEnv }

func (k knownByName) FindNodes(ctx context.Context, id string, known EC2Instance) (FoundNodes, error) {
	if known.PrivateDNS == "" {
		return FoundNodes{}, nil
	}
	return k.testEnv.FindNodes(ctx, id, known)
}
