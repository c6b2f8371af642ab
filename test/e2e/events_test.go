package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/events"
	"quiesce/internal/config"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
	"quiesce/test/parts/runtimeapi"
)

// deliveries are the ways in which Auto Scaling's event reaches the function: how it is wrapped, and what the answer must be.
var deliveries = []struct {
	name    string
	wrap    func(*testing.T, []byte) []byte
	answers func(*testing.T, []byte)
}{

	{"EventBridge", unwrapped, requireReport},
	{"EventBridge in SQS", inSQS, requireNoFailures},
	{"EventBridge in SNS", inSNS, requireReportList},
	{"EventBridge in SNS in SQS", inSNSInSQS, requireNoFailures},
	{"a hook's notification", notification, requireReport},
	{"a hook's notification in SQS", compose(notification, inSQS), requireNoFailures},
	{"a hook's notification in SNS", compose(notification, inSNS), requireReportList},
	{"a hook's notification in SNS in SQS", compose(notification, inSNSInSQS), requireNoFailures},
}

// If a delivery is not understood, nodes are not drained. After an answer of the wrong shape, SQS delivers the batch again for
// days, or deletes a failed one.
func TestEvent_EachDelivery_NodeDrained(t *testing.T) {
	s := newFixture(t, len(deliveries))
	for i, way := range deliveries {
		target := s.instances[i]
		s.runPodOn(target, fmt.Sprint("pod-", i), stopsAfter("100ms"))
		result := s.send(way.wrap(t, s.terminate(target).Body))
		require.Empty(t, result.ErrorType, "%s: %s", way.name, result.ErrorMessage)
		way.answers(t, result.Payload)
		require.Empty(t, s.podsOn(target), way.name)
		s.requireCompletedOnce(target)
	}
}

// One malformed record must not keep the nodes of the other records from being drained, nor bring those records back.
func TestBatch_OneMalformedRecord_OthersDrained(t *testing.T) {
	s := newFixture(t, 3)
	s.runPodOn(s.instances[0], "first")
	s.runPodOn(s.instances[1], "second")
	batch := sample(t, "sqs-batch-one-bad", func(batch object) {
		records(batch)[0]["body"] = string(s.terminate(s.instances[0]).Body)
		records(batch)[2]["body"] = string(s.terminate(s.instances[1]).Body)
	})
	result := s.send(batch)
	require.Empty(t, result.ErrorType, result.ErrorMessage)
	require.JSONEq(t, `{"batchItemFailures":[{"itemIdentifier":"2e1424d4-f796-459a-8184-9c92662be6da"}]}`, string(result.Payload))
	for _, target := range s.instances[:2] {
		require.Empty(t, s.podsOn(target))
		s.requireCompletedOnce(target)
	}
	require.Contains(t, s.function.Output(), "Records[1].body: detail.EC2InstanceId: missing")
}

// skippedSamples are the samples that are not ours, and the reason that is reported.
var skippedSamples = map[string]string{
	"terminate-other-group":         "group builders is not managed by quiesce",
	"terminate-other-hook":          "hook Terminate-LC-Hook is not managed by quiesce",
	"terminate-successful":          "EC2 Instance Terminate Successful",
	"launch":                        "EC2 Instance-launch Lifecycle Action",
	"spot-interruption":             "EC2 Spot Instance Interruption Warning: drain.onSpotInterruption is off",
	"rebalance-recommendation":      "EC2 Instance Rebalance Recommendation: drain.onRebalanceRecommendation is off",
	"health-scheduled-change":       "AWS Health Event: drain.onScheduledChange is off",
	"hook-launch-notification":      "autoscaling:EC2_INSTANCE_LAUNCHING",
	"hook-test-notification":        "autoscaling:TEST_NOTIFICATION",
	"hook-test-notification-in-sqs": "autoscaling:TEST_NOTIFICATION",
	"sns-hook-test-notification":    "autoscaling:TEST_NOTIFICATION",
	"sns-group-notification":        "autoscaling:EC2_INSTANCE_TERMINATE",
}

// malformedReasons are the samples that no retry can fix, and the reason that is reported.
var malformedReasons = map[string]string{
	"malformed-instance-id":    "detail.EC2InstanceId: not an instance id",
	"malformed-no-instance-id": "detail.EC2InstanceId: missing",
	"malformed-no-token":       "detail.LifecycleActionToken: missing",
	"malformed-time":           "time: not a time in RFC 3339",
	"malformed-detail":         "detail: must be an object, not string",
	"malformed-shape":          "neither an EventBridge event, nor a hook's notification",
	"malformed-empty-batch":    "Records: empty",
	"malformed-other-source":   "Records: eventSource must be aws:sqs or aws:sns",
	"malformed-sqs":            "Records[0].body: not JSON",
	"malformed-sns":            "Records[0].Sns.Message: detail.AutoScalingGroupName: missing",
	"malformed-sns-in-sqs":     "Records[0].body: Message: LifecycleHookName: missing",
	"malformed-action":         "action: must be plan, drain, sweep, check, switchover or resume",
	"malformed-action-in-sqs":  "Records[0].body: action: only resume may come through a queue",
	"malformed-plan":           "action plan: needs either instanceId or node",
	"malformed-drain":          "action drain: needs instanceId",
	"malformed-unknown-key":    `"force": unknown key`,
}

// Anyone who can send an event may send anything. What is not ours must cost nothing, and nothing may be guessed.
func TestEvent_NotOursOrMalformed_AnsweredWithoutCalls(t *testing.T) {
	s := newFixture(t, 0)
	f := s.newFunctionFor("workers-a") // the samples' own group, so that no sample is refused for its group alone
	for _, name := range slices.Sorted(maps.Keys(skippedSamples)) {
		s.requireSkipped(f, name, skippedSamples[name])
	}
	for _, c := range events.Cases {
		if strings.HasPrefix(c.Name, "malformed-") {
			require.Contains(t, malformedReasons, c.Name)
			s.requireMalformed(f, c.Name, malformedReasons[c.Name])
		}
	}
	s.requireNoCalls(f)
}

func (s *fixture) requireSkipped(f *env.Function, name, why string) {
	s.Helper()
	payload := read(s.T, name)
	result := s.sendTo(f, payload)
	require.Empty(s, result.ErrorType, "%s: %s", name, result.ErrorMessage)
	switch sourceOf(payload) {
	case "sqs":
		requireNoFailures(s.T, result.Payload)
	case "sns":
		require.JSONEq(s, `["skipped"]`, pluckKey(s.T, result.Payload, "status"), name)
		require.Contains(s, pluckKey(s.T, result.Payload, "reason"), why, name)
	default:
		r := decodeReport(s.T, result.Payload)
		require.Equal(s, termination.StatusSkipped, r.Status, name)
		require.Contains(s, r.Reason, why, name)
	}
	require.Contains(s, f.Output(), why, name)
}

func (s *fixture) requireMalformed(f *env.Function, name, what string) {
	s.Helper()
	payload := read(s.T, name)
	result := s.sendTo(f, payload)
	if sourceOf(payload) == "sqs" {
		require.Empty(s, result.ErrorType, "%s: %s", name, result.ErrorMessage)
		require.Contains(s, string(result.Payload), `{"itemIdentifier":"059f36b4-87a3-44ab-83d2-661975830a7d"}`, name)
	} else {
		require.Equal(s, "Malformed", result.ErrorType, "%s: %s", name, result.Payload)
		require.Contains(s, result.ErrorMessage, what, name)
	}
	// The log has the text as JSON.
	quoted, err := json.Marshal(what)
	require.NoError(s, err)
	require.Contains(s, f.Output(), strings.Trim(string(quoted), `"`), name)
}

// An event is a claim. A forged event must not drain a healthy node.
func TestEvent_InstanceInService_Rejected(t *testing.T) {
	s := newFixture(t, 1)
	s.runPodOn(s.instances[0], "pod")
	r := s.invoke(forgedEvent(t, s.group, s.instances[0]))
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusRejected, r.Status)
	require.Contains(t, r.Reason, "InService, not waiting to terminate")
	require.Empty(t, writes(s.requests(s.function)))
	require.Len(t, s.podsOn(s.instances[0]), 1)
	s.requireOnlyCalls(readOnlyCalls...)
}

// The rule may match more groups than ours, and other tools have their own hooks on our groups. Completing another tool's action
// would terminate an instance that the tool still needs.
func TestEvent_OtherGroupOrHook_Untouched(t *testing.T) {
	s := newFixture(t, 1)
	foreign, other := s.group+"-other", awstest.Hook{Name: "other"}
	s.AWS.AddGroup(foreign, awstest.Hook{Name: env.Hook})
	neighbor := s.instanceWithoutNode(foreign, "neighbor")
	ofGroup := s.terminate(neighbor)
	s.AWS.AddGroup(s.group, awstest.Hook{Name: env.Hook}, other)
	ours := s.AWS.Terminate(s.instances[0].ID)
	require.Equal(t, "other", ours[1].Hook)

	for _, event := range []awstest.Event{ofGroup, ours[1]} {
		r := s.invoke(event.Body)
		require.Empty(t, r.ErrorType, r.ErrorMessage)
		require.Equal(t, termination.StatusSkipped, r.Status)
	}
	s.requireNoCalls(s.function)

	require.Equal(t, termination.StatusDrained, s.invoke(ours[0].Body).Status)
	s.requireCompletedOnce(s.instances[0])
	require.Equal(t, "Terminating:Wait", s.AWS.State(s.instances[0].ID), "the other hook is not ours to complete")
	require.Equal(t, "Terminating:Wait", s.AWS.State(neighbor.ID))
}

// EventBridge delivers at least once. Two drains of one node would signal pods twice, and the second signal kills a pgbouncer at
// once.
func TestEvent_TwiceAtOnce_OneDrain(t *testing.T) {
	s := newFixture(t, 2)
	s.deploy("web", 8, stopping("5s")) // longer than the slower of the two needs to begin
	target, second := s.instances[0], s.newFunction()
	pods := s.podsOn(target)
	event := s.terminate(target).Body
	one, two := s.beginOn(s.function, event), s.beginOn(second, event)
	answers := []report{one(), two()}
	slices.SortFunc(answers, func(a, b report) int { return strings.Compare(string(a.Status), string(b.Status)) })

	require.Equal(t, termination.StatusDrained, answers[0].Status)
	require.Contains(t, []termination.Status{termination.StatusSkipped, termination.StatusRejected}, answers[1].Status)
	require.Empty(t, answers[1].ErrorType)
	s.requireCompletedOnce(target)
	accepted := acceptedEvictions(append(s.requests(s.function), s.requests(second)...))
	require.Len(t, accepted, len(pods))
	for _, pod := range pods {
		require.Equal(t, 1, accepted[pod.Name], pod.Name)
	}
}

// A message that arrives after its drain must not fail, which would bring it back for days, and must not be handled again.
func TestEvent_AfterCompletion_DoesNothing(t *testing.T) {
	s := newFixture(t, 1)
	s.runPodOn(s.instances[0], "pod")
	event := s.terminate(s.instances[0]).Body
	require.Equal(t, termination.StatusDrained, s.invoke(event).Status)
	before := writes(s.requests(s.function))

	r := s.invoke(event)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Contains(t, []termination.Status{termination.StatusSkipped, termination.StatusRejected}, r.Status)
	require.Equal(t, before, writes(s.requests(s.function)))
	s.requireCompletedOnce(s.instances[0])
}

const invalidConfiguration = `autoScalingGroups: []
mode: sideways
drain:
  maxDuration: -1m
  concurency: 4
  onDeadline: kill
phases:
  - name: poolers
    match: {labelSelector: "app in ("}
`

// A function that starts with half of its configuration fails when an instance terminates. If it named one error at a time, each
// would cost a deployment.
func TestStart_InvalidConfiguration_EveryErrorNamed(t *testing.T) {
	s := sharedEnv(t)
	_, err := s.Function(t.Context(), invalidConfiguration)
	var start *runtimeapi.InitError
	require.ErrorAs(t, err, &start)
	line := strings.TrimSuffix(start.Stderr, "\n")
	require.NotContains(t, line, "\n")
	var said struct {
		Level, Msg string
		Errors     []config.Error
	}
	require.NoError(t, json.Unmarshal([]byte(line), &said), line)
	require.Equal(t, "FATAL", said.Level)
	require.Equal(t, "invalid configuration", said.Msg)
	found := map[string]int{}
	for _, e := range said.Errors {
		require.NotEmpty(t, e.Reason)
		found[e.Key] = e.Line
	}
	require.Equal(t, map[string]int{
		"autoScalingGroups": 1, "mode": 2, "drain.maxDuration": 4, "drain.concurency": 5, "drain.onDeadline": 6,
		"phases[0].match.labelSelector": 9,
	}, found)
}

// send invokes the fixture's function and returns the raw result.
func (s *fixture) send(payload []byte) runtimeapi.Result {
	s.Helper()
	return s.sendTo(s.function, payload)
}

func (s *fixture) sendTo(f *env.Function, payload []byte) runtimeapi.Result {
	s.Helper()
	result, err := f.Invoke(s.ctx, payload)
	require.NoError(s, err)
	return result
}

// requireCompletedOnce requires that the instance's lifecycle action was completed exactly once, with CONTINUE.
func (s *fixture) requireCompletedOnce(i env.Instance) {
	s.Helper()
	completions := s.AWS.Completions(i.ID)
	require.Len(s, completions, 1)
	require.Equal(s, env.Hook, completions[0].Hook)
	require.Equal(s, awstest.Continue, completions[0].Result)
}

// requireNoCalls requires that the function has called neither Kubernetes nor AWS.
func (s *fixture) requireNoCalls(f *env.Function) {
	s.Helper()
	require.Empty(s, s.requests(f))
	require.Empty(s, s.AWS.CallsOf(f.Session))
}

// requireOnlyCalls requires that the fixture's function has called no other AWS action.
func (s *fixture) requireOnlyCalls(actions ...string) {
	s.Helper()
	for _, call := range s.AWS.CallsOf(s.function.Session) {
		require.Contains(s, actions, call.Action)
	}
}

// acceptedEvictions counts the accepted evictions of each pod.
func acceptedEvictions(all []lab.Request) map[string]int {
	accepted := map[string]int{}
	for _, r := range all {
		if r.Subresource == "eviction" && r.Code == http.StatusCreated {
			accepted[r.Name]++
		}
	}
	return accepted
}
