// Package events has a sample payload for every event and request that the function accepts or rejects, as AWS or a person
// sends it. Tests, README.md and manual invocations use the same files, so the documented payloads are the tested ones.
// [Cases] describes each file.
//
// The shapes are those of https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-event-reference.html,
// https://docs.aws.amazon.com/autoscaling/ec2/userguide/prepare-for-lifecycle-notifications.html,
// https://docs.aws.amazon.com/health/latest/ug/aws-health-events-eventbridge-schema.html,
// https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html and https://docs.aws.amazon.com/lambda/latest/dg/with-sns.html.
package events

import (
	"embed"
	"strings"
)

// FS has the payloads, one file per case, named <case>.json.
//
//go:embed *.json
var FS embed.FS

// Case is one sample payload.
type Case struct {
	Name  string // of the file, without .json
	About string
}

// Cases lists all payloads. Unless its text says otherwise, each is about instance i-0123456789abcdef0 of group workers-a and
// hook quiesce.
var Cases = []Case{
	{"terminate", "EventBridge: the instance terminates, and waits on the hook"},
	{"terminate-warm-pool", "EventBridge: the instance returns to the warm pool"},
	{"terminate-other-hook", "EventBridge: the instance waits on the hook of EKS managed node groups"},
	{"terminate-other-group", "EventBridge: the group is not configured"},
	{"terminate-successful", "EventBridge: the instance is gone"},
	{"launch", "EventBridge: an instance launches"},
	{"spot-interruption", "EventBridge: EC2 interrupts a Spot instance in two minutes"},
	{"rebalance-recommendation", "EventBridge: EC2 may soon interrupt a Spot instance"},
	{"health-scheduled-change", "EventBridge: EC2 has scheduled the retirement of this instance and of another one"},
	{"state-change", "EventBridge: the instance shuts down"},

	{"hook-notification", "the hook's own notification of a termination"},
	{"hook-launch-notification", "the hook's own notification of a launch"},
	{"hook-test-notification", "the test notification to the target of a new hook"},

	{"sqs", "SQS: terminate"},
	{"sqs-batch", "SQS: terminate, for two instances"},
	{"sqs-batch-one-bad", "SQS: terminate, for two instances, and a malformed record between them"},
	{"hook-notification-in-sqs", "SQS: hook-notification"},
	{"hook-test-notification-in-sqs", "SQS: hook-test-notification"},
	{"swept-in-sqs", "SQS: a termination whose event was lost, sent by the sweep without a token"},
	{"resume-in-sqs", "SQS: resume, which a move sends before it pauses poolers"},
	{"sns-in-sqs", "SQS: terminate in an SNS envelope"},
	{"sns-hook-notification-in-sqs", "SQS: hook-notification in an SNS envelope"},

	{"sns", "SNS: terminate"},
	{"sns-batch", "SNS: terminate, for two instances"},
	{"sns-hook-notification", "SNS: hook-notification"},
	{"sns-hook-test-notification", "SNS: hook-test-notification"},
	{"sns-group-notification", "SNS: the group's notification of a termination, without a hook"},

	{"plan", "manual: plan a drain of this instance"},
	{"plan-node", "manual: plan a drain of this node"},
	{"drain", "manual: drain this instance's node"},
	{"sweep", "manual or scheduled: sweep all groups"},
	{"check", "manual or scheduled: check the path of a drain, short of an eviction"},

	{"switchover", "manual: make orders-1 the primary of cluster orders in namespace databases"},
	{"rehearse", "manual: everything of that switchover but the request, with the best candidate"},
	{"resume", "manual: resume the poolers that interrupted moves left paused"},

	{"malformed-instance-id", "EventBridge: the instance ID is a path"},
	{"malformed-no-instance-id", "EventBridge: no instance ID"},
	{"malformed-no-token", "EventBridge: no lifecycle action token"},
	{"malformed-time", "EventBridge: an invalid time"},
	{"malformed-detail", "EventBridge: the detail is not an object"},
	{"malformed-shape", "an object without a known key"},
	{"malformed-empty-batch", "an empty batch"},
	{"malformed-other-source", "a batch of another service than SQS and SNS"},
	{"malformed-sqs", "SQS: a body that is not JSON"},
	{"malformed-sns", "SNS: no group name"},
	{"malformed-sns-in-sqs", "SQS: an SNS envelope of a notification without a hook name"},
	{"malformed-action", "manual: an unknown action"},
	{"malformed-action-in-sqs", "SQS: drain, which only a direct invocation may request"},
	{"malformed-plan", "manual: a plan of an instance and a node at once"},
	{"malformed-drain", "manual: a drain without an instance"},
	{"malformed-unknown-key", "manual: a drain with an unknown key"},
}

// Read returns the payload of a case, by the name of the case or of its file.
func Read(name string) ([]byte, error) {
	return FS.ReadFile(strings.TrimSuffix(name, ".json") + ".json")
}
