package termination

import (
	"strings"
	"time"

	"quiesce/internal/drain"
)

// Termination is one lifecycle action on one instance, as an event claims it. Nothing in it is believed before it is verified.
type Termination struct {
	Group      string
	Hook       string
	Token      string // of the lifecycle action; empty if unknown: a manual drain, or an event that was lost
	InstanceID string
	Began      time.Time // when the action began, as the event says
	Trigger    Trigger   // what announces the end of the instance, if no lifecycle action does
}

// Trigger is a warning that EC2 gives before it reclaims an instance. EC2 does not wait for an answer. The zero Trigger stands for a
// lifecycle action.
type Trigger string

// The triggers, in EC2's words: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html and
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/rebalance-recommendations.html.
const (
	SpotInterruption        Trigger = "EC2 Spot Instance Interruption Warning"
	RebalanceRecommendation Trigger = "EC2 Instance Rebalance Recommendation"
)

// The triggers that begin no drain: https://docs.aws.amazon.com/health/latest/ug/aws-health-events-eventbridge-schema.html and
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/monitoring-instance-state-changes.html.
const (
	HealthEvent Trigger = "AWS Health Event"
	StateChange Trigger = "EC2 Instance State-change Notification"
)

// Claim is what an event says of instances that wait on no hook: that changes are scheduled, or that they stop.
type Claim struct {
	Trigger     Trigger
	InstanceIDs []string // of a state change: one
}

// Delivery is the input of one invocation: one or several records, and their source, which decides the shape of the answer.
type Delivery struct {
	Source  Source
	Records []Record
}

// Source is the service that delivers.
type Source int

// The sources differ in the answer that they expect: a report, a list of reports, or the failed items of a batch.
const (
	Direct Source = iota // EventBridge, a hook's own notification, or a person
	SNS
	SQS
)

// Record is one event of a delivery. Exactly one of Termination, Claim, Request, NotOurs and Malformed is set.
type Record struct {
	MessageID     string    // of an SQS or SNS record
	ReceiptHandle string    // of an SQS record, as are the next two
	Receives      int       // how often it was delivered, this time included
	FirstReceived time.Time // when it was delivered first; zero: unknown
	Body          string    // the record as it came, for the dead-letter queue

	Termination *Termination // the beginning of a lifecycle action, or a trigger
	Claim       *Claim       // a scheduled change, or a state change
	Request     *Request     // a manual invocation
	NotOurs     string       // why the event is not for quiesce: a launch, a test notification
	Malformed   error        // what is wrong and where; no retry can mend it
}

// isFirst reports whether the record was never delivered before, as far as its source counts.
func (r Record) isFirst() bool { return r.Receives <= 1 }

// Request is a manual invocation (events/README.md).
type Request struct {
	Action     Action `json:"action"`
	InstanceID string `json:"instanceId,omitempty"`
	Node       string `json:"node,omitempty"`
	Cluster    string `json:"cluster,omitempty"`   // of databases, as namespace/name
	Candidate  string `json:"candidate,omitempty"` // the member that is to be the primary; empty: the best one
	Rehearse   bool   `json:"rehearse,omitempty"`
}

func (r Request) switchover() drain.Switchover {
	namespace, cluster, _ := strings.Cut(r.Cluster, "/")
	return drain.Switchover{Namespace: namespace, Cluster: cluster, Candidate: r.Candidate, Rehearse: r.Rehearse}
}

// Action is the kind of a manual invocation.
type Action string

// The actions of a manual invocation.
const (
	ActionPlan  Action = "plan"
	ActionDrain Action = "drain"
	ActionSweep Action = "sweep"
	ActionCheck Action = "check"

	ActionSwitchover Action = "switchover"
	ActionResume     Action = "resume"
)
