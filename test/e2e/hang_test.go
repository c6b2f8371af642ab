package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/ports"
	"quiesce/test/parts/runtimeapi"
)

const (
	// sweepPeriod is when the next sweep begins. Each has 50 seconds, and its process some more to end on a busy machine.
	sweepPeriod = time.Minute
	// hung is how long a call takes that is never answered.
	hung = time.Hour
)

// blackHole returns the URL of an endpoint that accepts connections, and never answers.
func blackHole(t *testing.T) string {
	t.Helper()
	return "http://" + ports.Serve(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
}

// EC2 only helps to find the node. If it does not answer, the node can be searched.
func TestAWS_EC2NeverAnswers_DrainedAllTheSame(t *testing.T) {
	s := newFixture(t, 1)
	target := s.instances[0]
	s.runPodOn(target, "pod", stopsAfter("100ms"))
	f, err := s.FunctionWith(t.Context(), env.Settings{
		Configuration: "autoScalingGroups: [\"" + s.group + "\"]\nmode: drain\n",
		Environment:   []string{"AWS_ENDPOINT_URL_EC2=" + blackHole(t)},
		Timeout:       time.Minute,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })

	r := s.invokeOn(f, s.terminate(target).Body)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status)
	require.Empty(t, s.podsOn(target))
	s.requireCompletedOnce(target)
}

// There is a sweep each minute. Sweeps that wait for an endpoint without an end would pile up, and use up the function's concurrency.
func TestSweep_AWSNeverAnswers_EndsInTime(t *testing.T) {
	for name, action := range map[string]string{"nothing": "", "heartbeats": "RecordLifecycleActionHeartbeat"} {
		t.Run(name, func(t *testing.T) {
			const waiting = 60
			s := newFixture(t, 0)
			for n := range waiting {
				i := s.instanceWithoutNode(s.group, fmt.Sprintf("nowhere-%d", n))
				s.AWS.Terminate(i.ID)
			}
			queue := s.Queue(s.group)
			f, err := s.FunctionWith(t.Context(), env.Settings{
				Configuration: "autoScalingGroups: [\"" + s.group + "\"]\nmode: drain\n", Environment: queue.Environment(), Timeout: 2 * time.Minute,
			})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, f.Close()) })
			t.Cleanup(s.AWS.Fail("autoscaling", action, awstest.Fault{Session: f.Session.Name, Delay: hung}))

			result := s.sendTo(f, read(t, "sweep"))
			require.NotEqual(t, runtimeapi.TimedOut, result.ErrorType)
			require.Less(t, result.Duration, sweepPeriod)
			hanging := slices.ContainsFunc(s.AWS.CallsOf(f.Session), func(call awstest.Call) bool { return action == "" || call.Action == action })
			require.True(t, hanging, "a call was not answered")
		})
	}
}

// A scale-in to zero terminates hundreds of instances at once. EC2 limits how many one request may name.
func TestPeers_MoreThanEC2DescribesAtOnce_Tainted(t *testing.T) {
	const without = 230
	s := newFixture(t, 2)
	target, peer := s.instances[0], s.instances[1]
	s.runPodOn(target, "pod", stopsAfter("100ms"))
	for n := range without {
		i := s.instanceWithoutNode(s.group, fmt.Sprintf("nowhere-%d-%s", n, s.group))
		s.AWS.Terminate(i.ID)
	}
	s.AWS.Terminate(peer.ID)

	r := s.drain(target)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status)
	require.True(t, hasTaint(s.node(peer), taintKey))
	asked := 0
	for _, call := range s.AWS.CallsOf(s.function.Session) {
		if call.Action == "DescribeInstances" {
			asked++
			require.Equal(t, http.StatusOK, call.Code)
		}
	}
	require.GreaterOrEqual(t, asked, 2)
	require.NotContains(t, s.function.Output(), "DescribeInstances failed")
	s.requireCompletedOnce(target)
}
