package awstest

import (
	"encoding/json"
)

// eventTime is the precision of an action's start time in Auto Scaling's events.
const eventTime = "2006-01-02T15:04:05.000Z"

// Event is the EventBridge event that Auto Scaling sends when a hook starts a lifecycle action.
type Event struct {
	Hook, Token string
	Body        []byte // JSON
}

// eventJSON is "EC2 Instance-terminate Lifecycle Action" (Auto Scaling user guide, "event reference").
type eventJSON struct {
	Version    string      `json:"version"`
	ID         string      `json:"id"`
	DetailType string      `json:"detail-type"`
	Source     string      `json:"source"`
	Account    string      `json:"account"`
	Time       string      `json:"time"`
	Region     string      `json:"region"`
	Resources  []string    `json:"resources"`
	Detail     eventDetail `json:"detail"`
}

type eventDetail struct {
	LifecycleActionToken string
	AutoScalingGroupName string
	LifecycleHookName    string
	EC2InstanceID        string `json:"EC2InstanceId"`
	LifecycleTransition  string
	NotificationMetadata string `json:",omitempty"`
	Origin               string
	Destination          string
}

func newEvent(i *instance, a *lifecycleAction) Event {
	origin, destination := "AutoScalingGroup", "EC2"
	switch i.stateAt(a.began) {
	case stateWarmedPendingWait:
		destination = "WarmPool"
	case stateWarmedTerminatingWait:
		origin = "WarmPool"
	}
	body, err := json.Marshal(eventJSON{
		Version: "0", ID: newUUID(),
		DetailType: "EC2 Instance-terminate Lifecycle Action", Source: "aws.autoscaling",
		Account: Account, Region: Region, Time: a.began.UTC().Format(eventTime),
		Resources: []string{i.group.arn()},
		Detail: eventDetail{
			LifecycleActionToken: a.token,
			AutoScalingGroupName: i.group.name,
			LifecycleHookName:    a.hook.Name,
			EC2InstanceID:        i.ID,
			LifecycleTransition:  a.hook.Transition,
			NotificationMetadata: a.hook.Metadata,
			Origin:               origin,
			Destination:          destination,
		},
	})
	must(err)
	return Event{Hook: a.hook.Name, Token: a.token, Body: body}
}
