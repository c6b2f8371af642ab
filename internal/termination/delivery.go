package termination

import (
	"time"
)

// Termination is one lifecycle action on one instance, as an event claims it: nothing in it is believed before it is
// verified.
type Termination struct {
	Group      string
	Hook       string
	Token      string // of the lifecycle action; empty where nobody knows it: a manual drain, or an event that was lost
	InstanceID string
	Began      time.Time // when the event says the action began
	Trigger    Trigger   // what says that the instance is to go, where no lifecycle action does
}

// Trigger is a warning that EC2 gives before it takes an instance. Nothing waits for whoever heeds it. The zero Notice is none:
// a lifecycle action.
type Trigger string

// The notices, in EC2's words: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html and
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/rebalance-recommendations.html.
const (
	SpotInterruption        Trigger = "EC2 Spot Instance Interruption Warning"
	RebalanceRecommendation Trigger = "EC2 Instance Rebalance Recommendation"
)

// Delivery is what one invocation was given: one or several records, and the way they came, which decides the answer's
// shape.
type Delivery struct {
	Source  Source
	Records []Record
}

// Source is the way a delivery came.
type Source int

// The sources differ in what they are answered with: a report, a list of reports, the failed items of a batch.
const (
	Direct Source = iota // EventBridge, a hook's own notification, or a person
	SNS
	SQS
)

// Record is one event of a delivery. Exactly one of Termination, Request, NotOurs and Malformed is set.
type Record struct {
	MessageID     string    // of an SQS or SNS record
	ReceiptHandle string    // of an SQS record, as are the next two
	Receives      int       // how often it was delivered, this time included
	FirstReceived time.Time // when it first was; zero: not known
	Body          string    // the record as it came, for the dead-letter queue

	Termination *Termination // a lifecycle action at its beginning, or a notice
	Request     *Request     // a manual invocation
	NotOurs     string       // why it is nobody's business here: a launch, a test notification
	Malformed   error        // what is wrong and where; no retry can mend it
}

// isFirst tells whether the record was never delivered before, as far as its source counts.
func (r Record) isFirst() bool { return r.Receives <= 1 }

// Request is a manual invocation (README, "Invoke by hand").
type Request struct {
	Action     Action `json:"action"`
	InstanceID string `json:"instanceId,omitempty"`
	Node       string `json:"node,omitempty"`
}

// Action is what a manual invocation asks for.
type Action string

// The actions of a manual invocation.
const (
	ActionPlan  Action = "plan"
	ActionDrain Action = "drain"
	ActionSweep Action = "sweep"
)
