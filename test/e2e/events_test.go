package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"quiesce/events"
	"quiesce/internal/config"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
	"quiesce/test/parts/runtimeapi"
)

// ways are those in which Auto Scaling's word reaches the function: how an event is wrapped, and what is answered to it.
var ways = []struct {
	name    string
	wrap    func(*testing.T, []byte) []byte
	answers func(*testing.T, []byte)
}{
	{"EventBridge", unwrapped, theReport},
	{"EventBridge in SQS", inSQS, nothingFailed},
	{"EventBridge in SNS", inSNS, listOfReports},
	{"EventBridge in SNS in SQS", inSNSInSQS, nothingFailed},
	{"a hook's notification", notification, theReport},
	{"a hook's notification in SQS", after(notification, inSQS), nothingFailed},
	{"a hook's notification in SNS", after(notification, inSNS), listOfReports},
	{"a hook's notification in SNS in SQS", after(notification, inSNSInSQS), nothingFailed},
}

// A way that is not understood is a fleet of nodes that nobody drains; an answer of the wrong shape is a batch that SQS
// delivers again for days, or one that it deletes though it failed.
func TestEachWayThatAnEventComesDrainsTheNode(t *testing.T) {
	s := setScene(t, len(ways))
	for i, way := range ways {
		victim := s.instances[i]
		s.podOn(victim, fmt.Sprint("pod-", i), stopsAfter("100ms"))
		result := s.send(way.wrap(t, s.terminate(victim).Body))
		require.Empty(t, result.ErrorType, "%s: %s", way.name, result.ErrorMessage)
		way.answers(t, result.Payload)
		require.Empty(t, s.podsOn(victim), way.name)
		s.completedOnce(victim)
	}
}

// One poisoned record must not keep its neighbours' nodes from being drained, nor bring those back again and again.
func TestABadRecordOfABatchHarmsNoOther(t *testing.T) {
	s := setScene(t, 3)
	s.podOn(s.instances[0], "first")
	s.podOn(s.instances[1], "second")
	batch := sample(t, "sqs-batch-one-bad", func(batch object) {
		records(batch)[0]["body"] = string(s.terminate(s.instances[0]).Body)
		records(batch)[2]["body"] = string(s.terminate(s.instances[1]).Body)
	})
	result := s.send(batch)
	require.Empty(t, result.ErrorType, result.ErrorMessage)
	require.JSONEq(t, `{"batchItemFailures":[{"itemIdentifier":"2e1424d4-f796-459a-8184-9c92662be6da"}]}`, string(result.Payload))
	for _, victim := range s.instances[:2] {
		require.Empty(t, s.podsOn(victim))
		s.completedOnce(victim)
	}
	require.Contains(t, s.function.Output(), "Records[1].body: detail.EC2InstanceId: missing")
}

// notOurs are the samples that speak of something else, and why they are nobody's business here.
var notOurs = map[string]string{
	"terminate-other-group":         "group builders is not one of ours",
	"terminate-other-hook":          "hook Terminate-LC-Hook is not ours",
	"terminate-successful":          "EC2 Instance Terminate Successful",
	"launch":                        "EC2 Instance-launch Lifecycle Action",
	"rebalance-recommendation":      "EC2 Instance Rebalance Recommendation: drain.onRebalanceRecommendation is off",
	"hook-launch-notification":      "autoscaling:EC2_INSTANCE_LAUNCHING",
	"hook-test-notification":        "autoscaling:TEST_NOTIFICATION",
	"hook-test-notification-in-sqs": "autoscaling:TEST_NOTIFICATION",
	"sns-hook-test-notification":    "autoscaling:TEST_NOTIFICATION",
	"sns-group-notification":        "autoscaling:EC2_INSTANCE_TERMINATE",
}

// malformed are the samples that no retry can mend, and what is said of them.
var malformed = map[string]string{
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
	"malformed-action":         "action: must be plan, drain or sweep",
	"malformed-action-in-sqs":  "Records[0].body: action: only a direct invocation may ask for one",
	"malformed-plan":           "action plan: needs either instanceId or node",
	"malformed-drain":          "action drain: needs instanceId",
	"malformed-unknown-key":    `"force": unknown key`,
}

// Whoever can send an event may send anything: what does not concern us must cost nothing, and nothing may be guessed.
func TestWhatIsNotOursOrMalformedIsAnsweredAndNothingIsDone(t *testing.T) {
	s := setScene(t, 0)
	f := s.newFunctionFor("workers-a") // the samples' own group, so that nothing is refused for its group alone
	for _, name := range slices.Sorted(maps.Keys(notOurs)) {
		s.isSkipped(f, name, notOurs[name])
	}
	for _, c := range events.Cases {
		if strings.HasPrefix(c.Name, "malformed-") {
			require.Contains(t, malformed, c.Name)
			s.isMalformed(f, c.Name, malformed[c.Name])
		}
	}
	s.untouched(f)
}

func (s *scene) isSkipped(f *env.Function, name, why string) {
	s.Helper()
	payload := read(s.T, name)
	result := s.sendTo(f, payload)
	require.Empty(s, result.ErrorType, "%s: %s", name, result.ErrorMessage)
	switch kindOf(payload) {
	case "sqs":
		nothingFailed(s.T, result.Payload)
	case "sns":
		require.JSONEq(s, `["skipped"]`, pluck(s.T, result.Payload, "status"), name)
		require.Contains(s, pluck(s.T, result.Payload, "reason"), why, name)
	default:
		r := reportOf(s.T, result.Payload)
		require.Equal(s, termination.StatusSkipped, r.Status, name)
		require.Contains(s, r.Reason, why, name)
	}
	require.Contains(s, f.Output(), why, name)
}

func (s *scene) isMalformed(f *env.Function, name, what string) {
	s.Helper()
	payload := read(s.T, name)
	result := s.sendTo(f, payload)
	if kindOf(payload) == "sqs" {
		require.Empty(s, result.ErrorType, "%s: %s", name, result.ErrorMessage)
		require.Contains(s, string(result.Payload), `{"itemIdentifier":"059f36b4-87a3-44ab-83d2-661975830a7d"}`, name)
	} else {
		require.Equal(s, "Malformed", result.ErrorType, "%s: %s", name, result.Payload)
		require.Contains(s, result.ErrorMessage, what, name)
	}
	// The log spells it as JSON.
	quoted, err := json.Marshal(what)
	require.NoError(s, err)
	require.Contains(s, f.Output(), strings.Trim(string(quoted), `"`), name)
}

// An event is a claim. One that is forged, or about an instance that Auto Scaling never meant to take, must not drain a
// healthy node.
func TestAnInstanceInServiceIsNotDrained(t *testing.T) {
	s := setScene(t, 1)
	s.podOn(s.instances[0], "pod")
	r := s.invoke(forged(t, s.group, s.instances[0]))
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusRejected, r.Status)
	require.Contains(t, r.Reason, "InService, not waiting to terminate")
	require.Empty(t, writes(s.requests(s.function)))
	require.Len(t, s.podsOn(s.instances[0]), 1)
	s.sentOnly("DescribeAutoScalingGroups", "DescribeInstances", "DescribeCluster", "GetCallerIdentity")
}

// The rule that sends us events may match more than our groups, and other tools have hooks of their own on ours: to end an
// action of theirs would take an instance from under their hands.
func TestForeignGroupsAndForeignHooksAreLeftAlone(t *testing.T) {
	s := setScene(t, 1)
	foreign, other := s.group+"-other", awstest.Hook{Name: "other"}
	s.AWS.AddGroup(foreign, awstest.Hook{Name: env.Hook})
	neighbour := s.unjoined(foreign, "neighbour")
	ofGroup := s.terminate(neighbour)
	s.AWS.AddGroup(s.group, awstest.Hook{Name: env.Hook}, other)
	ours := s.AWS.Terminate(s.instances[0].ID)
	require.Equal(t, "other", ours[1].Hook)

	for _, event := range []awstest.Event{ofGroup, ours[1]} {
		r := s.invoke(event.Body)
		require.Empty(t, r.ErrorType, r.ErrorMessage)
		require.Equal(t, termination.StatusSkipped, r.Status)
	}
	s.untouched(s.function)

	require.Equal(t, termination.StatusDrained, s.invoke(ours[0].Body).Status)
	s.completedOnce(s.instances[0])
	require.Equal(t, "Terminating:Wait", s.AWS.State(s.instances[0].ID), "the other hook is not ours to complete")
	require.Equal(t, "Terminating:Wait", s.AWS.State(neighbour.ID))
}

// EventBridge delivers at least once. Two drains of one node would signal pods twice, and the second signal kills a
// pgbouncer at once.
func TestTheSameEventTwiceAtOnceIsOneDrain(t *testing.T) {
	s := setScene(t, 2)
	s.deploy("web", 8)
	victim, second := s.instances[0], s.newFunction()
	pods := s.podsOn(victim)
	event := s.terminate(victim).Body
	one, two := s.beginOn(s.function, event), s.beginOn(second, event)
	answers := []report{one(), two()}
	slices.SortFunc(answers, func(a, b report) int { return strings.Compare(string(a.Status), string(b.Status)) })

	require.Equal(t, termination.StatusDrained, answers[0].Status)
	require.Contains(t, []termination.Status{termination.StatusSkipped, termination.StatusRejected}, answers[1].Status)
	require.Empty(t, answers[1].ErrorType)
	s.completedOnce(victim)
	accepted := acceptedEvictions(append(s.requests(s.function), s.requests(second)...))
	require.Len(t, accepted, len(pods))
	for _, pod := range pods {
		require.Equal(t, 1, accepted[pod.Name], pod.Name)
	}
}

// A message that comes late, after its work was done, must neither fail, which would bring it back for ever, nor be done
// again.
func TestAnEventThatComesAfterTheEndDoesNothing(t *testing.T) {
	s := setScene(t, 1)
	s.podOn(s.instances[0], "pod")
	event := s.terminate(s.instances[0]).Body
	require.Equal(t, termination.StatusDrained, s.invoke(event).Status)
	before := writes(s.requests(s.function))

	r := s.invoke(event)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Contains(t, []termination.Status{termination.StatusSkipped, termination.StatusRejected}, r.Status)
	require.Equal(t, before, writes(s.requests(s.function)))
	s.completedOnce(s.instances[0])
}

const faulty = `autoScalingGroups: []
mode: sideways
drain:
  maxDuration: -1m
  concurency: 4
  onDeadline: kill
phases:
  - name: poolers
    match: {labelSelector: "app in ("}
`

// A function with half a configuration would fail when an instance terminates. Errors that come one by one cost a deployment
// each.
func TestStart_InvalidConfiguration_LogsEveryError(t *testing.T) {
	s := play(t)
	_, err := s.Function(t.Context(), faulty)
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

// send invokes the scene's function, and returns the answer as it came.
func (s *scene) send(payload []byte) runtimeapi.Result {
	s.Helper()
	return s.sendTo(s.function, payload)
}

func (s *scene) sendTo(f *env.Function, payload []byte) runtimeapi.Result {
	s.Helper()
	result, err := f.Invoke(s.ctx, payload)
	require.NoError(s, err)
	return result
}

// completedOnce: the instance's lifecycle action was completed exactly once, so that it may go.
func (s *scene) completedOnce(i env.Instance) {
	s.Helper()
	completions := s.AWS.Completions(i.ID)
	require.Len(s, completions, 1)
	require.Equal(s, env.Hook, completions[0].Hook)
	require.Equal(s, awstest.Continue, completions[0].Result)
}

// untouched: the function has asked nothing of anybody.
func (s *scene) untouched(f *env.Function) {
	s.Helper()
	require.Empty(s, s.requests(f))
	require.Empty(s, s.AWS.CallsOf(f.Session))
}

// sentOnly: the scene's function has called no other action of AWS.
func (s *scene) sentOnly(actions ...string) {
	s.Helper()
	for _, call := range s.AWS.CallsOf(s.function.Session) {
		require.Contains(s, actions, call.Action)
	}
}

// acceptedEvictions counts them by pod.
func acceptedEvictions(all []lab.Request) map[string]int {
	accepted := map[string]int{}
	for _, r := range all {
		if r.Subresource == "eviction" && r.Code == http.StatusCreated {
			accepted[r.Name]++
		}
	}
	return accepted
}

// podOn creates a pod on an instance's node.
func (s *scene) podOn(i env.Instance, name string, change ...func(*corev1.Pod)) *corev1.Pod {
	s.Helper()
	return s.pod(name, append(change, pinned(i))...)
}

func stopsAfter(d string) func(*corev1.Pod) { return annotated(lab.StopAfter, d) }

// object is a JSON object.
type object = map[string]any

func read(t *testing.T, name string) []byte {
	t.Helper()
	payload, err := events.Read(name)
	require.NoError(t, err)
	return payload
}

// sample is a payload of events/, made to speak of what is there: the shape stays that which is documented.
func sample(t *testing.T, name string, change func(object)) []byte {
	t.Helper()
	return changed(t, read(t, name), change)
}

func changed(t *testing.T, payload []byte, change func(object)) []byte {
	t.Helper()
	var o object
	require.NoError(t, json.Unmarshal(payload, &o))
	change(o)
	payload, err := json.Marshal(o)
	require.NoError(t, err)
	return payload
}

func records(batch object) (all []object) {
	for _, record := range batch["Records"].([]any) {
		all = append(all, record.(object))
	}
	return all
}

func unwrapped(_ *testing.T, event []byte) []byte { return event }

func after(first, then func(*testing.T, []byte) []byte) func(*testing.T, []byte) []byte {
	return func(t *testing.T, event []byte) []byte { return then(t, first(t, event)) }
}

// notification is what the hook itself would have sent of the event.
func notification(t *testing.T, event []byte) []byte {
	var e object
	require.NoError(t, json.Unmarshal(event, &e))
	return sample(t, "hook-notification", func(notice object) {
		maps.Copy(notice, e["detail"].(object))
		notice["Time"] = e["time"]
	})
}

func inSQS(t *testing.T, event []byte) []byte {
	return sample(t, "sqs", func(batch object) { records(batch)[0]["body"] = string(event) })
}

func inSNS(t *testing.T, event []byte) []byte {
	return sample(t, "sns", func(batch object) { records(batch)[0]["Sns"].(object)["Message"] = string(event) })
}

func inSNSInSQS(t *testing.T, event []byte) []byte {
	return sample(t, "sns-in-sqs", func(batch object) {
		record := records(batch)[0]
		envelope := []byte(record["body"].(string))
		record["body"] = string(changed(t, envelope, func(o object) { o["Message"] = string(event) }))
	})
}

// forged is the event of a termination that never was.
func forged(t *testing.T, group string, i env.Instance) []byte {
	return sample(t, "terminate", func(event object) {
		detail := event["detail"].(object)
		detail["AutoScalingGroupName"], detail["EC2InstanceId"] = group, i.ID
	})
}

func theReport(t *testing.T, answer []byte) {
	require.Equal(t, termination.StatusDrained, reportOf(t, answer).Status)
}

func listOfReports(t *testing.T, answer []byte) {
	require.JSONEq(t, `["drained"]`, pluck(t, answer, "status"))
}

func nothingFailed(t *testing.T, answer []byte) {
	require.JSONEq(t, `{"batchItemFailures":[]}`, string(answer))
}

func reportOf(t *testing.T, answer []byte) (r termination.Report) {
	t.Helper()
	require.NoError(t, json.Unmarshal(answer, &r), "%s", answer)
	return r
}

// pluck is one key of each object in a list, as JSON.
func pluck(t *testing.T, list []byte, key string) string {
	t.Helper()
	var all []object
	require.NoError(t, json.Unmarshal(list, &all), "%s", list)
	values := make([]any, len(all))
	for i, o := range all {
		values[i] = o[key]
	}
	plucked, err := json.Marshal(values)
	require.NoError(t, err)
	return string(plucked)
}

// kindOf tells which service a batch says it is from; empty: it is none.
func kindOf(payload []byte) string {
	switch {
	case bytes.Contains(payload, []byte(`"aws:sqs"`)):
		return "sqs"
	case bytes.Contains(payload, []byte(`"aws:sns"`)):
		return "sns"
	}
	return ""
}
