package asg_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/events"
	"quiesce/internal/asg"
	"quiesce/internal/termination"
)

var began = time.Date(2026, 11, 21, 8, 15, 30, 214e6, time.UTC)

func terminating(change ...func(*termination.Termination)) termination.Record {
	t := termination.Termination{
		Group: "workers-a", Hook: "quiesce", Token: "87654321-4321-4321-4321-210987654321",
		InstanceID: "i-0123456789abcdef0", Began: began,
	}
	for _, c := range change {
		c(&t)
	}
	return termination.Record{Termination: &t}
}

func otherInstance(t *termination.Termination) {
	t.InstanceID, t.Token = "i-0fedcba9876543210", "12121212-3434-5656-7878-909090909090"
}

func requested(r termination.Request) termination.Record { return termination.Record{Request: &r} }
func notOurs(why string) termination.Record              { return termination.Record{NotOurs: why} }

func triggered(by termination.Trigger) termination.Record {
	return termination.Record{Termination: &termination.Termination{
		InstanceID: "i-0123456789abcdef0", Began: began.Truncate(time.Second), Trigger: by,
	}}
}

func claimed(by termination.Trigger, ids ...string) termination.Record {
	return termination.Record{Claim: &termination.Claim{Trigger: by, InstanceIDs: ids}}
}

// reason is the error of a malformed record. Tests compare its text.
type reason string

func (r reason) Error() string { return string(r) }

func malformed(why string) termination.Record { return termination.Record{Malformed: reason(why)} }

const noShape = "neither an EventBridge event, nor a hook's notification, nor a batch of SQS or SNS, nor an action"

// deliveries has the expected delivery of each sample payload.
var deliveries = map[string]struct {
	source  termination.Source
	records []termination.Record
}{
	"terminate":           {termination.Direct, []termination.Record{terminating()}},
	"terminate-warm-pool": {termination.Direct, []termination.Record{terminating()}},
	"terminate-other-hook": {termination.Direct, []termination.Record{
		terminating(func(t *termination.Termination) { t.Hook = "Terminate-LC-Hook" })}},
	"terminate-other-group": {termination.Direct, []termination.Record{
		terminating(func(t *termination.Termination) { t.Group = "builders" })}},
	"terminate-successful":     {termination.Direct, []termination.Record{notOurs(`event "EC2 Instance Terminate Successful"`)}},
	"launch":                   {termination.Direct, []termination.Record{notOurs(`event "EC2 Instance-launch Lifecycle Action"`)}},
	"spot-interruption":        {termination.Direct, []termination.Record{triggered("EC2 Spot Instance Interruption Warning")}},
	"rebalance-recommendation": {termination.Direct, []termination.Record{triggered("EC2 Instance Rebalance Recommendation")}},

	"health-scheduled-change": {termination.Direct, []termination.Record{
		claimed(termination.HealthEvent, "i-0123456789abcdef0", "i-0fedcba9876543210")}},
	"state-change": {termination.Direct, []termination.Record{claimed(termination.StateChange, "i-0123456789abcdef0")}},

	"hook-notification":        {termination.Direct, []termination.Record{terminating()}},
	"hook-launch-notification": {termination.Direct, []termination.Record{notOurs(`notification "autoscaling:EC2_INSTANCE_LAUNCHING"`)}},
	"hook-test-notification":   {termination.Direct, []termination.Record{notOurs(`notification "autoscaling:TEST_NOTIFICATION"`)}},

	"sqs":       {termination.SQS, []termination.Record{terminating()}},
	"sqs-batch": {termination.SQS, []termination.Record{terminating(), terminating(otherInstance)}},
	"sqs-batch-one-bad": {termination.SQS, []termination.Record{
		terminating(), malformed("Records[1].body: detail.EC2InstanceId: missing"), terminating(otherInstance)}},
	"hook-notification-in-sqs":      {termination.SQS, []termination.Record{terminating()}},
	"hook-test-notification-in-sqs": {termination.SQS, []termination.Record{notOurs(`notification "autoscaling:TEST_NOTIFICATION"`)}},
	"swept-in-sqs": {termination.SQS, []termination.Record{
		terminating(func(t *termination.Termination) { t.Token, t.Began = "", time.Time{} })}},
	"sns-in-sqs":                   {termination.SQS, []termination.Record{terminating()}},
	"sns-hook-notification-in-sqs": {termination.SQS, []termination.Record{terminating()}},

	"sns":                        {termination.SNS, []termination.Record{terminating()}},
	"sns-batch":                  {termination.SNS, []termination.Record{terminating(), terminating(otherInstance)}},
	"sns-hook-notification":      {termination.SNS, []termination.Record{terminating()}},
	"sns-hook-test-notification": {termination.SNS, []termination.Record{notOurs(`notification "autoscaling:TEST_NOTIFICATION"`)}},
	"sns-group-notification":     {termination.SNS, []termination.Record{notOurs(`notification "autoscaling:EC2_INSTANCE_TERMINATE"`)}},

	"plan": {termination.Direct, []termination.Record{
		requested(termination.Request{Action: termination.ActionPlan, InstanceID: "i-0123456789abcdef0"})}},
	"plan-node": {termination.Direct, []termination.Record{
		requested(termination.Request{Action: termination.ActionPlan, Node: "ip-10-0-1-2.eu-west-1.compute.internal"})}},
	"drain": {termination.Direct, []termination.Record{
		requested(termination.Request{Action: termination.ActionDrain, InstanceID: "i-0123456789abcdef0"})}},
	"check": {termination.Direct, []termination.Record{requested(termination.Request{Action: termination.ActionCheck})}},
	"switchover": {termination.Direct, []termination.Record{requested(termination.Request{
		Action: termination.ActionSwitchover, Cluster: "databases/orders", Candidate: "orders-1"})}},
	"rehearse": {termination.Direct, []termination.Record{requested(termination.Request{
		Action: termination.ActionSwitchover, Cluster: "databases/orders", Rehearse: true})}},
	"resume":        {termination.Direct, []termination.Record{requested(termination.Request{Action: termination.ActionResume})}},
	"resume-in-sqs": {termination.SQS, []termination.Record{requested(termination.Request{Action: termination.ActionResume})}},
	"sweep":         {termination.Direct, []termination.Record{requested(termination.Request{Action: termination.ActionSweep})}},

	"malformed-instance-id": {termination.Direct, []termination.Record{
		malformed(`detail.EC2InstanceId: not an instance id: "i-0123456789abcdef0/../../nodes?x=\n"`)}},
	"malformed-no-instance-id": {termination.Direct, []termination.Record{malformed("detail.EC2InstanceId: missing")}},
	"malformed-no-token":       {termination.Direct, []termination.Record{malformed("detail.LifecycleActionToken: missing")}},
	"malformed-time":           {termination.Direct, []termination.Record{malformed(`time: not a time in RFC 3339: "yesterday"`)}},
	"malformed-detail":         {termination.Direct, []termination.Record{malformed("detail: must be an object, not string")}},
	"malformed-shape":          {termination.Direct, []termination.Record{malformed(noShape)}},
	"malformed-empty-batch":    {termination.Direct, []termination.Record{malformed("Records: empty")}},
	"malformed-other-source": {termination.Direct, []termination.Record{
		malformed(`Records: eventSource must be aws:sqs or aws:sns, not "aws:s3"`)}},
	"malformed-sqs": {termination.SQS, []termination.Record{
		malformed("Records[0].body: not JSON: unexpected end of JSON input")}},
	"malformed-sns": {termination.SNS, []termination.Record{
		malformed("Records[0].Sns.Message: detail.AutoScalingGroupName: missing")}},
	"malformed-sns-in-sqs": {termination.SQS, []termination.Record{
		malformed("Records[0].body: Message: LifecycleHookName: missing")}},
	"malformed-action": {termination.Direct, []termination.Record{
		malformed(`action: must be plan, drain, sweep, check, switchover or resume, not "reboot"`)}},
	"malformed-action-in-sqs": {termination.SQS, []termination.Record{
		malformed(`Records[0].body: action: only resume may come through a queue, not "drain"`)}},
	"malformed-plan":        {termination.Direct, []termination.Record{malformed("action plan: needs either instanceId or node")}},
	"malformed-drain":       {termination.Direct, []termination.Record{malformed("action drain: needs instanceId, and nothing else")}},
	"malformed-unknown-key": {termination.Direct, []termination.Record{malformed(`"force": unknown key`)}},
}

func TestParse_SamplePayload_IsAsNamed(t *testing.T) {
	for _, c := range events.Cases {
		t.Run(c.Name, func(t *testing.T) {
			want, known := deliveries[c.Name]
			require.True(t, known, "no expectation for this case")

			got := asg.Parse(payload(t, c.Name))

			require.Equal(t, want.source, got.Source)
			require.Equal(t, want.records, contents(got.Records))
		})
	}
}

func payload(t *testing.T, name string) []byte {
	payload, err := events.Read(name)
	require.NoError(t, err)
	return payload
}

// contents returns the records without the details of their delivery.
func contents(records []termination.Record) []termination.Record {
	var all []termination.Record
	for _, r := range records {
		r.MessageID, r.ReceiptHandle, r.Receives, r.FirstReceived, r.Body = "", "", 0, time.Time{}, ""
		if r.Malformed != nil {
			r.Malformed = reason(r.Malformed.Error())
		}
		all = append(all, r)
	}
	return all
}

func TestParse_OneBadRecord_OthersAreRead(t *testing.T) {
	records := asg.Parse(payload(t, "sqs-batch-one-bad")).Records

	require.Len(t, records, 3)
	require.NoError(t, records[0].Malformed)
	require.Error(t, records[1].Malformed)
	require.NoError(t, records[2].Malformed)
}

func TestParse_Record_KeepsMessageIDAndBody(t *testing.T) {
	now := time.Now().Truncate(time.Millisecond)
	batch := strings.ReplaceAll(string(payload(t, "sqs-batch-one-bad")), "1795249530322", strconv.FormatInt(now.UnixMilli(), 10))
	sqs := asg.Parse([]byte(batch)).Records[1]
	require.Equal(t, "2e1424d4-f796-459a-8184-9c92662be6da", sqs.MessageID)
	require.Equal(t, "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a-example-2", sqs.ReceiptHandle)
	require.Equal(t, 1, sqs.Receives)
	require.WithinDuration(t, now, sqs.FirstReceived, 0)
	require.Contains(t, sqs.Body, `{"version":"0"`)

	sns := asg.Parse(payload(t, "malformed-sns")).Records[0]
	require.Equal(t, "95df01b4-ee98-5cb9-9903-4c221d41eb5e", sns.MessageID)
	require.Empty(t, sns.ReceiptHandle)
	require.Zero(t, sns.Receives)
	require.Zero(t, sns.FirstReceived)
	require.Contains(t, sns.Body, `{"version":"0"`)

	terminate := payload(t, "terminate")
	direct := asg.Parse(terminate).Records[0]
	require.Empty(t, direct.MessageID)
	require.Equal(t, string(terminate), direct.Body)
}

// A count of -1 made the function panic: it was shifted by it.
func TestParse_ReceiveCount_IsBounded(t *testing.T) {
	for count, want := range map[string]int{
		"1": 1, "17": 17, "1000": 1000, "-1": 0, "0": 0, "": 0, "x": 0, "1001": 1000, "9223372036854775807": 1000,
		"99999999999999999999": 1000, "-99999999999999999999": 0,
	} {
		require.Equal(t, want, received(count, "").Receives, count)
	}
}

// received is a record of SQS with these attributes.
func received(count, first string) termination.Record {
	return asg.Parse(fmt.Appendf(nil, `{"Records":[{"eventSource":"aws:sqs","body":"{}","attributes":{
		"ApproximateReceiveCount":%q,"ApproximateFirstReceiveTimestamp":%q}}]}`, count, first)).Records[0]
}

func TestParse_FirstReceipt_ImpossibleIsUnknown(t *testing.T) {
	now := time.Now().Truncate(time.Millisecond)
	millis := func(at time.Time) string { return strconv.FormatInt(at.UnixMilli(), 10) }
	for _, at := range []time.Time{now, now.Add(-13 * 24 * time.Hour), now.Add(5 * time.Second)} {
		require.WithinDuration(t, at, received("1", millis(at)).FirstReceived, 0)
	}
	for _, text := range []string{
		"", "x", "0", "-1", "9223372036854775807", "99999999999999999999", millis(now.Add(time.Hour)), millis(now.Add(-15 * 24 * time.Hour)),
	} {
		require.Zero(t, received("1", text).FirstReceived, text)
	}
}

func TestParse_LongNames_Malformed(t *testing.T) {
	for _, key := range []string{"AutoScalingGroupName", "LifecycleHookName"} {
		parsed := func(length int) termination.Record {
			var event map[string]any
			require.NoError(t, json.Unmarshal(payload(t, "terminate"), &event))
			event["detail"].(map[string]any)[key] = strings.Repeat("y", length)
			text, err := json.Marshal(event)
			require.NoError(t, err)
			return asg.Parse(text).Records[0]
		}
		require.NoError(t, parsed(255).Malformed)
		why := parsed(900_000).Malformed
		require.ErrorContains(t, why, "detail."+key+": longer than 255 characters")
		require.Less(t, len(why.Error()), 200)
	}
}

func TestParse_NoBody_KeepsWholeRecord(t *testing.T) {
	record := asg.Parse([]byte(`{"Records":[{"eventSource":"aws:sqs","messageId":"m-1"}]}`)).Records[0]

	require.EqualError(t, record.Malformed, "Records[0].body: missing")
	require.Equal(t, "m-1", record.MessageID)
	require.JSONEq(t, `{"eventSource":"aws:sqs","messageId":"m-1"}`, record.Body)
}

func TestParse_FractionsAndOffset_TimeIsRead(t *testing.T) {
	for at, want := range map[string]time.Time{
		"2026-11-21T08:15:30Z":           began.Truncate(time.Second),
		"2026-11-21T08:15:30.214Z":       began,
		"2026-11-21T10:15:30.214+02:00":  began,
		"2026-11-21T08:15:30.214000000Z": began,
	} {
		event := strings.ReplaceAll(string(payload(t, "terminate")), "2026-11-21T08:15:30.214Z", at)
		require.WithinDuration(t, want, asg.Parse([]byte(event)).Records[0].Termination.Began, 0, at)
	}
}

func TestParse_Unreadable_IsOneMalformedRecord(t *testing.T) {
	notification := func(key string, value any) string {
		var fields map[string]any
		require.NoError(t, json.Unmarshal(payload(t, "hook-notification"), &fields))
		fields[key] = value
		changed, err := json.Marshal(fields)
		require.NoError(t, err)
		return string(changed)
	}
	spot := func(rest string) string {
		return `{"detail-type":"EC2 Spot Instance Interruption Warning",` + rest + `}`
	}
	for text, want := range map[string]string{
		``:                                     "not JSON: unexpected end of JSON input",
		`null`:                                 noShape,
		`{}`:                                   noShape,
		`{"Action":"plan"}`:                    noShape,
		`"terminate"`:                          "must be an object, not string",
		`[1]`:                                  "must be an object, not array",
		`{"Records":1e9}`:                      "Records: must be an array, not number",
		`{"Records":null}`:                     "Records: empty",
		`{"Records":[null]}`:                   `Records: eventSource must be aws:sqs or aws:sns, not ""`,
		`{"detail-type":1}`:                    "detail-type: must be a string, not number",
		`{"detail-type":null}`:                 "detail-type: missing",
		`{"Event":{}}`:                         "Event: must be a string, not object",
		`{"Event":""}`:                         "LifecycleTransition: missing",
		`{"action":null}`:                      `action: must be plan, drain, sweep, check, switchover or resume, not ""`,
		`{"action":["plan"]}`:                  "action: must be a string, not array",
		`{"action":"plan"}`:                    "action plan: needs either instanceId or node",
		`{"action":"plan","x":{}}`:             `"x": unknown key`,
		`{"action":"plan","node":"../x"}`:      `node: not the name of a node: "../x"`,
		`{"action":"plan","instanceId":"i-0"}`: `instanceId: not an instance id: "i-0"`,
		`{"action":"drain","node":"n"}`:        "action drain: needs instanceId, and nothing else",
		`{"action":"sweep","node":"n"}`:        "action sweep: takes neither instanceId nor node",
		`{"action":"check","node":"n"}`:        "action check: takes neither instanceId nor node",
		`{"action":"resume","node":"n"}`:       "action resume: takes neither instanceId nor node",
		`{"action":"resume","cluster":"a/b"}`:  "action resume: takes neither cluster nor candidate nor rehearse",
		`{"action":"plan","node":"n","rehearse":true}`:            "action plan: takes neither cluster nor candidate nor rehearse",
		`{"action":"switchover"}`:                                 "action switchover: needs cluster, and neither instanceId nor node",
		`{"action":"switchover","cluster":"orders"}`:              `cluster: not a namespace and the name of a cluster, as namespace/name: "orders"`,
		`{"action":"switchover","cluster":"../x/y"}`:              `cluster: not a namespace and the name of a cluster, as namespace/name: "../x/y"`,
		`{"action":"switchover","cluster":"a/b","candidate":"?"}`: `candidate: not the name of a member: "?"`,
		notification("LifecycleTransition", ""):                   "LifecycleTransition: missing",
		notification("LifecycleHookName", 7):                      "LifecycleHookName: must be a string, not number",
		notification("LifecycleActionToken", ""):                  "LifecycleActionToken: missing",
		notification("LifecycleActionToken", "x"):                 `LifecycleActionToken: must have 36 characters: "x"`,
		notification("EC2InstanceId", "i-ABCDEF01"):               `EC2InstanceId: not an instance id: "i-ABCDEF01"`,
		notification("Time", ""):                                  "Time: missing",
		spot(`"x":7`):                                             "detail.instance-id: missing",
		spot(`"detail":{"instance-id":"x"}`):                      `detail.instance-id: not an instance id: "x"`,
		spot(`"detail":7`):                                        "detail: must be an object, not number",
		spot(`"detail":{"instance-id":"i-0abc1234"}`):             "time: missing",
		spot(`"time":"x","detail":{"instance-id":"i-0abc1234"}`):  `time: not a time in RFC 3339: "x"`,
		notification("Time", "2026-11-21"):                        `Time: not a time in RFC 3339: "2026-11-21"`,
	} {
		delivery := asg.Parse([]byte(text))
		require.Len(t, delivery.Records, 1, text)
		require.EqualError(t, delivery.Records[0].Malformed, want, text)
		require.Equal(t, text, delivery.Records[0].Body)
	}
}

func TestParse_BrokenRecord_KeepsServiceOfBatch(t *testing.T) {
	for text, want := range map[string]string{
		`{"Records":[7,{"eventSource":"aws:sqs","body":"{}"}]}`:            "Records[0]: must be an object, not number",
		`{"Records":[{"eventSource":"aws:sqs","body":7}]}`:                 "Records[0]: body: must be a string, not number",
		`{"Records":[{"eventSource":"aws:sqs","body":"{\"Message\":7}"}]}`: "Records[0].body: Message: must be a string, not number",
		`{"Records":[{"EventSource":"aws:sns","Sns":{}}]}`:                 "Records[0].Sns.Message: missing",
		`{"Records":[{"EventSource":"aws:sns","Sns":{"Message":"["}}]}`:    "Records[0].Sns.Message: not JSON: unexpected end of JSON input",
	} {
		require.EqualError(t, asg.Parse([]byte(text)).Records[0].Malformed, want, text)
	}
}

func TestParse_HostileValue_IsQuotedAndTruncated(t *testing.T) {
	event, err := json.Marshal(map[string]string{"detail-type": "x\n\x1b[2J" + strings.Repeat("y", 1000)})
	require.NoError(t, err)

	why := asg.Parse(event).Records[0].NotOurs

	require.Less(t, len(why), 200)
	require.NotContains(t, why, "\n")
	require.NotContains(t, why, "\x1b")
}

// The next invocation reads what the sweep writes. An unreadable event would end in the dead-letter queue.
func TestEncodeEvent_Termination_ParsesBack(t *testing.T) {
	want := *terminating(func(t *termination.Termination) { t.Token, t.Began = "", time.Time{} }).Termination
	encoded := asg.EncodeEvent(want)
	require.Equal(t, want, *asg.Parse([]byte(encoded)).Records[0].Termination)

	var sample struct{ Records []struct{ Body string } }
	require.NoError(t, json.Unmarshal(payload(t, "swept-in-sqs"), &sample))
	require.Equal(t, sample.Records[0].Body, encoded)
}

// AWS Health sends one kind of event about everything.
func TestParse_HealthEventOfOthers_IsNotOurs(t *testing.T) {
	payload, err := events.Read("health-scheduled-change")
	require.NoError(t, err)
	const notScheduled, noInstance = "AWS Health Event: not about a scheduled change of EC2", "AWS Health Event: names no instance"
	for name, c := range map[string]struct{ from, to, want string }{
		"another service":  {`"service": "EC2"`, `"service": "RDS"`, notScheduled},
		"an issue":         {`"scheduledChange"`, `"issue"`, notScheduled},
		"a host":           {`"entityValue": "i-`, `"entityValue": "h-`, noInstance},
		"no entity":        {`"affectedEntities"`, `"others"`, noInstance},
		"a path":           {`"entityValue": "i-`, `"entityValue": "../i-`, noInstance},
		"one of them only": {`"entityValue": "i-0123456789abcdef0"`, `"entityValue": "UNKNOWN"`, ""},
	} {
		record := asg.Parse([]byte(strings.ReplaceAll(string(payload), c.from, c.to))).Records[0]
		require.NoError(t, record.Malformed, name)
		require.Equal(t, c.want, record.NotOurs, name)
	}
	malformed := asg.Parse([]byte(`{"detail-type":"AWS Health Event","detail":{"affectedEntities":"all"}}`)).Records[0].Malformed
	require.EqualError(t, malformed, "detail.affectedEntities: must be an array, not string")
}

func TestParse_StateChange_OnlyStopsAreRead(t *testing.T) {
	payload, err := events.Read("state-change")
	require.NoError(t, err)
	parse := func(from, to string) termination.Record {
		return asg.Parse([]byte(strings.ReplaceAll(string(payload), from, to))).Records[0]
	}
	for _, state := range []string{"shutting-down", "stopping", "stopped"} {
		require.NotNil(t, parse("shutting-down", state).Claim, state)
	}
	require.Equal(t, `EC2 Instance State-change Notification: "running"`, parse("shutting-down", "running").NotOurs)
	require.ErrorContains(t, parse(`"i-0123456789abcdef0"`, `"x"`).Malformed, "detail.instance-id: not an instance id")
}
