package termination

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// fakePrimaries answers what a test wants.
type fakePrimaries struct {
	asked   []drain.Switchover
	resumes int
	result  drain.EscortResult
	paused  []string // until Resume
	held    []string // also after it
	err     error
	unread  error
}

func (f *fakePrimaries) Switchover(_ context.Context, s drain.Switchover) (drain.EscortResult, error) {
	f.asked = append(f.asked, s)
	return f.result, f.err
}

func (f *fakePrimaries) Resume(context.Context) ([]string, error) {
	f.resumes++
	return f.paused, f.err
}

func (f *fakePrimaries) Paused(context.Context) ([]string, error) { return f.held, f.unread }

func request(h *Handler, source Source, r Request) (any, error) {
	h.Parse = func([]byte) Delivery {
		return Delivery{Source: source, Records: []Record{{MessageID: "m", ReceiptHandle: "h", Request: &r}}}
	}
	return h.Invoke(context.Background(), nil)
}

func TestSwitchover_EachOutcome_IsAnAnswer(t *testing.T) {
	asked := Request{Action: ActionSwitchover, Cluster: "databases/orders", Candidate: "orders-1"}
	for name, c := range map[string]struct {
		rehearse bool
		err      error
		status   Status
		reason   string
	}{
		"moved":     {status: StatusMoved},
		"rehearsed": {rehearse: true, status: StatusRehearsed},
		"held":      {err: &drain.Held{Reason: "orders-1 is 32 MiB behind"}, status: StatusHeld, reason: "orders-1 is 32 MiB behind"},
		"failed":    {err: errors.New("pods is forbidden"), status: StatusFailed, reason: "pods is forbidden"},
	} {
		env, primaries := newTestEnv(), &fakePrimaries{result: drain.EscortResult{Kind: "postgres", HeldBackSeconds: 3.6}, err: c.err}
		h := env.handler()
		h.Primaries = primaries
		asked.Rehearse = c.rehearse
		answer, err := request(h, Direct, asked)
		require.NoError(t, err, name)
		report := answer.(SwitchoverReport)
		require.Equal(t, c.status, report.Status, name)
		require.Equal(t, c.reason, report.Reason, name)
		require.Equal(t, "databases/orders", report.Cluster)
		require.Equal(t, 3.6, report.Escort.HeldBackSeconds)
		require.Equal(t, []drain.Switchover{{Namespace: "databases", Cluster: "orders", Candidate: "orders-1", Rehearse: c.rehearse}}, primaries.asked)
	}
	shadow, primaries := newTestEnv().handler(), &fakePrimaries{}
	shadow.Policy.Shadow, shadow.Primaries = true, primaries
	answer, err := request(shadow, Direct, asked)
	require.NoError(t, err)
	require.Equal(t, StatusFailed, answer.(SwitchoverReport).Status)
	require.Contains(t, answer.(SwitchoverReport).Reason, "shadow mode")
	require.Empty(t, primaries.asked)
	answer, err = request(newTestEnv().handler(), Direct, asked)
	require.NoError(t, err)
	require.Equal(t, StatusFailed, answer.(SwitchoverReport).Status)
	require.Contains(t, answer.(SwitchoverReport).Reason, "no phase of the configuration has the escort postgres")
}

// The message is sent before poolers are paused. If it cannot be handled, it must come again.
func TestResume_Message_ComesAgainUntilNothingIsPaused(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h, _ := env.withQueue()
		primaries := &fakePrimaries{paused: []string{"databases/orders"}, err: errors.New("the console does not answer")}
		h.Primaries = primaries
		answer, err := request(h, SQS, Request{Action: ActionResume})
		require.NoError(t, err)
		text, _ := json.Marshal(answer)
		require.JSONEq(t, `{"batchItemFailures":[{"itemIdentifier":"m"}]}`, string(text))

		primaries.err = nil
		answer, err = request(h, SQS, Request{Action: ActionResume})
		require.NoError(t, err)
		text, _ = json.Marshal(answer)
		require.JSONEq(t, `{"batchItemFailures":[]}`, string(text))
		require.Equal(t, 2, primaries.resumes)
	})
}

func TestResume_ByHand_NamesClusters(t *testing.T) {
	h := newTestEnv().handler()
	primaries := &fakePrimaries{paused: []string{"databases/orders"}}
	h.Primaries = primaries
	answer, err := request(h, Direct, Request{Action: ActionResume})
	require.NoError(t, err)
	require.Equal(t, ResumeReport{Status: StatusResumed, Clusters: []string{"databases/orders"}, Held: []string{}}, answer)

	primaries.paused, primaries.held = nil, []string{"databases/users"}
	answer, err = request(h, Direct, Request{Action: ActionResume})
	require.NoError(t, err)
	require.Equal(t, ResumeReport{Status: StatusHeld, Clusters: []string{}, Held: []string{"databases/users"}, Reason: heldReason}, answer)

	primaries.unread = errors.New("forbidden")
	answer, err = request(h, Direct, Request{Action: ActionResume})
	require.ErrorContains(t, err, "forbidden")
	require.Equal(t, StatusFailed, answer.(ResumeReport).Status)
}

// What is paused is not known without a login. "Resumed" would tell a person to look elsewhere.
func TestResume_ByHandWithoutDatabases_Fails(t *testing.T) {
	answer, err := request(newTestEnv().handler(), Direct, Request{Action: ActionResume})
	require.NoError(t, err)
	require.Equal(t, StatusFailed, answer.(ResumeReport).Status)
	require.Contains(t, answer.(ResumeReport).Reason, "no phase of the configuration has the escort postgres")
}

func TestSweep_PoolersPaused_ResumedAndReported(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		env := newTestEnv()
		h, _ := env.withQueue()
		primaries := &fakePrimaries{paused: []string{"databases/orders"}, err: errors.New("pgbouncer-2 does not answer")}
		h.Primaries = primaries
		report := sweepOnce(t, h)
		require.Equal(t, []string{"databases/orders"}, report.Resumed)
		require.Contains(t, report.Errors[0], "pgbouncer-2 does not answer")
		h.Policy.Shadow = true
		sweepOnce(t, h)
		require.Equal(t, 2, primaries.resumes, "also in shadow mode: what an earlier mode paused")
	})
}

// There is a message before each pause, and a sweep each minute. Only a pooler that was paused is worth a line.
func TestResume_Log_SaysOnlyWhatWasPaused(t *testing.T) {
	var log strings.Builder
	for name, c := range map[string]struct {
		paused            []string
		resumed, messages int // lines about paused poolers, and about messages
	}{
		"nothing was paused": {nil, 0, 0},
		"a cluster was":      {[]string{"databases/orders"}, 1, 1},
	} {
		bubble.Test(t, func(t *testing.T) {
			env := newTestEnv()
			env.state = inService
			h, _ := env.withQueue()
			h.Log, h.Primaries = slog.New(slog.NewTextHandler(&log, nil)), &fakePrimaries{paused: c.paused}
			_, err := request(h, SQS, Request{Action: ActionResume})
			require.NoError(t, err, name)
			require.Equal(t, c.resumed, strings.Count(log.String(), "paused poolers resumed"), name)
			require.Equal(t, c.messages, strings.Count(log.String(), "event handled"), name)
			log.Reset()
			sweepOnce(t, h)
			require.Equal(t, c.resumed, strings.Count(log.String(), "paused poolers resumed"), name)
			log.Reset()
		})
	}
}
