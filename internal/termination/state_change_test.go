package termination

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

var stopEvent = Record{Claim: &Claim{Trigger: StateChange, InstanceIDs: []string{event.InstanceID}}}

func TestStateChange_EachSituation_ReportedOrSilent(t *testing.T) {
	const tooLate = "EC2 Instance State-change Notification: i-0abc1234 stopped while it was "
	const isState = "EC2 Instance State-change Notification: i-0abc1234 is "
	const notOurs = "EC2 Instance State-change Notification: the group of i-0abc1234 is not managed by quiesce"
	for name, c := range map[string]struct {
		change   func(*testEnv)
		status   Status
		reason   string
		unhooked int
	}{
		"in service":   {func(*testEnv) {}, StatusSkipped, tooLate + "InService (Client.UserInitiatedShutdown): too late to drain", 1},
		"while drain":  {func(env *testEnv) { env.state = "Terminating:Wait" }, StatusSkipped, tooLate + "Terminating:Wait (Client.UserInitiatedShutdown): too late to drain", 1},
		"retained":     {func(env *testEnv) { env.state = retained }, StatusSkipped, tooLate + "Terminating:Retained (Client.UserInitiatedShutdown): too late to drain", 1},
		"without hook": {func(env *testEnv) { env.state = "Terminating" }, StatusSkipped, tooLate + "Terminating (Client.UserInitiatedShutdown): too late to drain", 1},
		"past hooks":   {func(env *testEnv) { env.state = "Terminating:Proceed" }, StatusSkipped, isState + "Terminating:Proceed", 0},
		"warm pool":    {func(env *testEnv) { env.state = "Warmed:Stopped" }, StatusSkipped, isState + "Warmed:Stopped", 0},
		"launching":    {func(env *testEnv) { env.state = "Pending:Wait" }, StatusSkipped, isState + "Pending:Wait", 0},
		"gone":         {func(env *testEnv) { env.state = "" }, StatusSkipped, notOurs, 0},
		"other group":  {func(env *testEnv) { env.group = "builders" }, StatusSkipped, notOurs, 0},
		"forged":       {func(env *testEnv) { env.stopped = false }, StatusRejected, "EC2 Instance State-change Notification: EC2 does not confirm it of i-0abc1234", 0},
		"reclaimed": {
			func(env *testEnv) { env.stopReason = "Server.SpotInstanceTermination" }, StatusSkipped,
			"EC2 Instance State-change Notification: EC2 has reclaimed the Spot instance i-0abc1234", 0,
		},
		"description lags": {
			func(env *testEnv) {
				env.state = "Terminating:Wait"
				time.AfterFunc(5*time.Second, func() { env.setState("Terminating:Proceed") })
			}, StatusSkipped, isState + "Terminating:Proceed", 0,
		},
	} {
		bubble.Test(t, func(t *testing.T) {
			env, m := newTestEnv(), &fakeMetrics{}
			env.state, env.stopped, env.stopReason = inService, true, "Client.UserInitiatedShutdown"
			c.change(env)
			h := env.handler()
			h.Metrics = m
			began := time.Now()
			report, err := deliver(t, h, stopEvent)
			require.NoError(t, err, name)
			require.Equal(t, c.status, report.Status, name)
			require.Equal(t, c.reason, report.Reason, name)
			require.Equal(t, c.unhooked, m.unhooked, name)
			require.Less(t, time.Since(began), maxDescriptionLag+2*verifyPace, name)
			require.Empty(t, env.effects(), name)
			require.Empty(t, m.invocations, "no drain")
		})
	}
}

func TestStateChange_AWSDoesNotAnswer_Retried(t *testing.T) {
	for _, operation := range []string{"instance", "ec2"} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.state = inService
			env.failAlways(operation, errors.New("Rate exceeded"))
			report, err := deliver(t, env.handler(), stopEvent)
			require.ErrorAs(t, err, new(*Failed))
			require.Equal(t, StatusFailed, report.Status)
		})
	}
}

// Its message came back every 20 seconds, 1,000 times, to the queue that terminations need.
func TestStateChange_AWSDoesNotAnswerAgainAndAgain_GivenUp(t *testing.T) {
	for receives, given := range map[int]bool{0: false, 1: false, maxStopTries - 1: false, maxStopTries: true, maxStopTries + 1: true} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.state = inService
			env.failAlways("instance", errors.New("Rate exceeded"))
			h := env.handler()
			var log strings.Builder
			h.Log = slog.New(slog.NewTextHandler(&log, nil))
			record := stopEvent
			record.Receives = receives
			o := h.handle(t.Context(), record)
			require.Equal(t, given, o.err == nil, receives)
			require.Equal(t, given, !o.isRetried(), receives)
			require.Equal(t, given, strings.Contains(log.String(), "failed to check a stop, giving up"), receives)
			require.Equal(t, StatusFailed, o.report.Status, receives)
			require.Contains(t, log.String(), "Rate exceeded", receives)
		})
	}
}

// There is one event for each instance of the account that stops.
func TestStateChange_OfOthers_OneRequestAndNoLogLine(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		env.group = "builders"
		env.failAlways("ec2", errors.New("not asked"))
		h := env.handler()
		var log strings.Builder
		h.Log = slog.New(slog.NewTextHandler(&log, nil))
		require.NoError(t, h.handle(t.Context(), stopEvent).err)
		require.Empty(t, log.String())
	})
}
