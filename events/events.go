// Package events holds one sample payload a case of what the function can be invoked with, as AWS or a person sends it.
// Tests, the README and manual invocation all use the same files, so that what is documented is what is tested. [Cases]
// says what each file is.
//
// The shapes are those of https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-event-reference.html,
// https://docs.aws.amazon.com/autoscaling/ec2/userguide/prepare-for-lifecycle-notifications.html,
// https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html and https://docs.aws.amazon.com/lambda/latest/dg/with-sns.html.
package events

import (
	"embed"
	"strings"
)

// FS has the payloads, one file a case, named <case>.json.
//
//go:embed *.json
var FS embed.FS

// Case is one sample payload.
type Case struct {
	Name  string // of its file, without .json
	About string
}

// Cases are all the payloads. Unless it says otherwise, each is about instance i-0123456789abcdef0 of the group workers-a
// and the hook quiesce.
var Cases = []Case{
	{"terminate", "EventBridge: the instance is to be terminated, and waits on the hook"},
	{"terminate-warm-pool", "EventBridge: the instance is to return to the warm pool"},
	{"terminate-other-hook", "EventBridge: the instance waits on the hook that EKS gives its managed node groups"},
	{"terminate-other-group", "EventBridge: an instance of a group that is not configured"},
	{"terminate-successful", "EventBridge: the instance is gone"},
	{"launch", "EventBridge: an instance is being launched"},
	{"spot-interruption", "EventBridge: EC2 takes a Spot instance back in two minutes"},
	{"rebalance-recommendation", "EventBridge: EC2 may soon take a Spot instance back"},

	{"hook-notification", "a hook's own notification of a termination"},
	{"hook-launch-notification", "a hook's own notification of a launch"},
	{"hook-test-notification", "what Auto Scaling sends to a hook's target once, when the hook is made"},

	{"sqs", "SQS: terminate"},
	{"sqs-batch", "SQS: terminate, and another instance's"},
	{"sqs-batch-one-bad", "SQS: terminate, one without an instance id, and another instance's"},
	{"hook-notification-in-sqs", "SQS: hook-notification"},
	{"hook-test-notification-in-sqs", "SQS: hook-test-notification"},
	{"swept-in-sqs", "SQS: the sweep's own notification of a termination whose event was lost; it has no token"},
	{"sns-in-sqs", "SQS: what SNS wraps around terminate"},
	{"sns-hook-notification-in-sqs", "SQS: what SNS wraps around hook-notification"},

	{"sns", "SNS: terminate"},
	{"sns-batch", "SNS: terminate, and another instance's"},
	{"sns-hook-notification", "SNS: hook-notification"},
	{"sns-hook-test-notification", "SNS: hook-test-notification"},
	{"sns-group-notification", "SNS: a group's notification of a termination, which no hook waits for"},

	{"plan", "by hand: what would a drain of this instance do?"},
	{"plan-node", "by hand: what would a drain of this node do?"},
	{"drain", "by hand: drain this instance's node"},
	{"sweep", "by hand or by schedule: look for terminations whose event was lost"},

	{"malformed-instance-id", "EventBridge: an instance id that is a path"},
	{"malformed-no-instance-id", "EventBridge: no instance id"},
	{"malformed-no-token", "EventBridge: no lifecycle action token"},
	{"malformed-time", "EventBridge: a time that is none"},
	{"malformed-detail", "EventBridge: a detail that is no object"},
	{"malformed-shape", "nothing that the function knows"},
	{"malformed-empty-batch", "a batch of nothing"},
	{"malformed-other-source", "a batch of a service that is neither SQS nor SNS"},
	{"malformed-sqs", "SQS: a body that is not JSON"},
	{"malformed-sns", "SNS: no group name"},
	{"malformed-sns-in-sqs", "SQS: what SNS wraps around a notification without a hook name"},
	{"malformed-action", "by hand: an action that is not known"},
	{"malformed-action-in-sqs", "SQS: drain, which only a direct invocation may ask for"},
	{"malformed-plan", "by hand: a plan of an instance and a node at once"},
	{"malformed-drain", "by hand: a drain of nothing"},
	{"malformed-unknown-key", "by hand: a drain with a key that is not known"},
}

// Read returns the payload of a case, by its name or its file's.
func Read(name string) ([]byte, error) {
	return FS.ReadFile(strings.TrimSuffix(name, ".json") + ".json")
}
