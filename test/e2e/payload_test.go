package e2e

import (
	"bytes"
	"encoding/json"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/events"
	"quiesce/internal/termination"
	"quiesce/test/env"
)

// object is a JSON object.
type object = map[string]any

func read(t *testing.T, name string) []byte {
	t.Helper()
	payload, err := events.Read(name)
	require.NoError(t, err)
	return payload
}

// sample returns a payload of events/ with changed values. Its shape stays the documented one.
func sample(t *testing.T, name string, change func(object)) []byte {
	t.Helper()
	return changeJSON(t, read(t, name), change)
}

func changeJSON(t *testing.T, payload []byte, change func(object)) []byte {
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

func compose(first, then func(*testing.T, []byte) []byte) func(*testing.T, []byte) []byte {
	return func(t *testing.T, event []byte) []byte { return then(t, first(t, event)) }
}

// notification returns the notification that the hook itself would send for the event.
func notification(t *testing.T, event []byte) []byte {
	var e object
	require.NoError(t, json.Unmarshal(event, &e))
	return sample(t, "hook-notification", func(notification object) {
		maps.Copy(notification, e["detail"].(object))
		notification["Time"] = e["time"]
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
		record["body"] = string(changeJSON(t, envelope, func(o object) { o["Message"] = string(event) }))
	})
}

// forgedEvent returns an event of a termination that did not happen.
func forgedEvent(t *testing.T, group string, i env.Instance) []byte {
	return sample(t, "terminate", func(event object) {
		detail := event["detail"].(object)
		detail["AutoScalingGroupName"], detail["EC2InstanceId"] = group, i.ID
	})
}

func requireReport(t *testing.T, answer []byte) {
	require.Equal(t, termination.StatusDrained, decodeReport(t, answer).Status)
}

func requireReportList(t *testing.T, answer []byte) {
	require.JSONEq(t, `["drained"]`, pluckKey(t, answer, "status"))
}

func requireNoFailures(t *testing.T, answer []byte) {
	require.JSONEq(t, `{"batchItemFailures":[]}`, string(answer))
}

func decodeReport(t *testing.T, answer []byte) (r termination.Report) {
	t.Helper()
	require.NoError(t, json.Unmarshal(answer, &r), "%s", answer)
	return r
}

// pluckKey returns one key of each object in a list, as JSON.
func pluckKey(t *testing.T, list []byte, key string) string {
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

// sourceOf returns the service that a batch says it is from; empty: the payload is not a batch.
func sourceOf(payload []byte) string {
	switch {
	case bytes.Contains(payload, []byte(`"aws:sqs"`)):
		return "sqs"
	case bytes.Contains(payload, []byte(`"aws:sns"`)):
		return "sns"
	}
	return ""
}
