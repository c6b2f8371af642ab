package e2e

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
)

const (
	// maxCrashDelay is the longest time that the message of a crashed invocation may stay hidden.
	maxCrashDelay = time.Minute
	// lambdaTimeout is the longest timeout that Lambda allows.
	lambdaTimeout = 15 * time.Minute
)

// queueFixture is a fixture whose functions receive messages from a queue.
type queueFixture struct {
	*fixture
	queue     env.Queue
	functions []*env.Function
}

// newQueueFixture makes a fixture with nodes, a queue and functions with this timeout (0: 15 minutes) in the shared environment.
func newQueueFixture(t *testing.T, nodes, functions int, timeout time.Duration, more ...string) *queueFixture {
	t.Helper()
	return newQueueFixtureOn(t, sharedEnv(t), nodes, functions, env.Settings{Configuration: strings.Join(more, "\n"), Timeout: timeout})
}

// newQueueFixtureOn makes a queueFixture in an environment. The functions have these settings, with the group and the queue
// added.
func newQueueFixtureOn(t *testing.T, on *env.Env, nodes, functions int, settings env.Settings) *queueFixture {
	t.Helper()
	s := newFixtureOn(t, on, nodes)
	p := &queueFixture{fixture: s, queue: s.QueueFor(s.group, cmp.Or(settings.Timeout, lambdaTimeout))}
	settings.Configuration = "autoScalingGroups: [\"" + s.group + "\"]\nmode: drain\n" + settings.Configuration
	settings.Environment = append(slices.Clone(settings.Environment), p.queue.Environment()...)
	for range functions {
		f, err := s.FunctionWith(t.Context(), settings)
		require.NoError(t, err)
		t.Cleanup(func() {
			require.NoError(t, f.Close())
			if t.Failed() {
				t.Logf("the log of %s:\n%s", f.Session.Name, f.Output())
			}
		})
		p.functions = append(p.functions, f)
	}
	s.function = p.functions[0]
	return p
}

// deliver starts to deliver the queue's messages in batches of this size.
func (p *queueFixture) deliver(batch int) {
	p.Helper()
	p.Cleanup(p.Map(p.queue, batch, p.functions...))
}

// send puts events into the queue, as EventBridge does.
func (p *queueFixture) send(events ...[]byte) {
	p.Helper()
	for _, event := range events {
		p.AWS.SendMessage(p.queue.URL, string(event))
	}
}

func (p *queueFixture) messages() []awstest.Message { return p.AWS.Messages(p.queue.URL) }

// awaitEmptyQueue waits until every message is deleted.
func (p *queueFixture) awaitEmptyQueue() {
	p.Helper()
	p.until("every message is deleted", func() (bool, error) { return len(p.messages()) == 0, nil })
}

const (
	// failedEvent is logged when an event is delivered again, and handedOff when a later invocation continues its drain.
	failedEvent = "event failed, will retry"
	handedOff   = "drain incomplete, handed off to next invocation"
)

// line is one line of a function's log.
type line struct {
	Time      time.Time
	Msg       string
	MessageID string
	Receives  int
	Reason    string
	Report    termination.Report
}

// logLines returns the lines with this message, in the order of the functions.
func (p *queueFixture) logLines(what string) (all []line) {
	p.Helper()
	for _, f := range p.functions {
		for text := range strings.Lines(f.Output()) {
			var l line
			if json.Unmarshal([]byte(text), &l) == nil && l.Msg == what {
				all = append(all, l)
			}
		}
	}
	return all
}

// calls returns the functions' AWS calls of this action.
func (p *queueFixture) calls(action string) (all []awstest.Call) {
	for _, f := range p.functions {
		for _, call := range p.AWS.CallsOf(f.Session) {
			if call.Action == action {
				all = append(all, call)
			}
		}
	}
	return all
}
