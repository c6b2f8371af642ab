package termination

import (
	"time"
)

// Termination is one lifecycle action on one instance, as an event claims it: nothing in it is believed before it is
// verified.
type Termination struct {
	Group      string
	Hook       string
	Token      string // of the lifecycle action; empty for a manual drain
	InstanceID string
	Began      time.Time // when the event says the action began
}

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
	MessageID     string // of an SQS or SNS record
	ReceiptHandle string // of an SQS record
	Body          string // the record as it came, for the dead-letter queue

	Termination *Termination // a lifecycle action at its beginning
	Request     *Request     // a manual invocation
	NotOurs     string       // why it is nobody's business here: a launch, a test notification
	Malformed   error        // what is wrong and where; no retry can mend it
}

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
