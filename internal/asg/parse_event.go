package asg

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"quiesce/internal/termination"
)

// The names of a termination that waits on a hook, in EventBridge events and in the hook's own notifications:
// https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-event-reference.html and
// https://docs.aws.amazon.com/autoscaling/ec2/userguide/prepare-for-lifecycle-notifications.html.
const (
	terminateDetailType   = "EC2 Instance-terminate Lifecycle Action"
	terminatingTransition = "autoscaling:EC2_INSTANCE_TERMINATING"
)

// sweepService is the Service in a notification that the sweep writes. Auto Scaling writes "AWS Auto Scaling". The sweep knows
// the action from the instance's state, and therefore has no token.
const sweepService = "quiesce"

// instanceID is the form of an EC2 instance ID, old (8 digits) or new (17):
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/resource-ids.html. Nothing else is accepted: IDs become parts of URLs
// and of log lines.
var instanceID = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)

// parseEvent reads one event without an envelope.
func parseEvent(data []byte, object object) termination.Record {
	switch {
	case object.has("detail-type"):
		return parseEventBridge(data, object)
	case object.has("LifecycleTransition"), object.has("Event"):
		return parseNotification(data)
	case object.has("action"):
		return malformed(errors.New("action: only a direct invocation may ask for one"))
	}
	return malformed(errors.New("neither an EventBridge event, nor a hook's notification, nor a batch of SQS or SNS, nor an action"))
}

// parseEventBridge selects events by their detail type. It does not read events of other types.
func parseEventBridge(data []byte, object object) termination.Record {
	var detailType string
	if err := decode(object["detail-type"], &detailType); err != nil {
		return malformed(fmt.Errorf("detail-type: %w", err))
	}
	switch detailType {
	case "":
		return malformed(errors.New("detail-type: missing"))
	case terminateDetailType:
		return parseTermination(data)
	case string(termination.SpotInterruption), string(termination.RebalanceRecommendation):
		return parseTrigger(data, termination.Trigger(detailType))
	case string(termination.HealthEvent):
		return parseHealthEvent(data)
	case string(termination.StateChange):
		return parseStateChange(data)
	}
	return termination.Record{NotOurs: "event " + quoted(detailType)}
}

func parseTermination(data []byte) termination.Record {
	var event struct {
		Time   string `json:"time"`
		Detail action `json:"detail"`
	}
	if err := decode(data, &event); err != nil {
		return malformed(err)
	}
	if err := event.Detail.check(); err != nil {
		return malformed(fmt.Errorf("detail.%w", err))
	}
	return event.Detail.record("time", event.Time)
}

// parseTrigger reads a Spot interruption or a rebalance recommendation. Its ARN has a zone where others have a region, so the
// instance is read from the detail.
func parseTrigger(data []byte, trigger termination.Trigger) termination.Record {
	var event struct {
		Time   string `json:"time"`
		Detail struct {
			Instance string `json:"instance-id"`
		} `json:"detail"`
	}
	if err := decode(data, &event); err != nil {
		return malformed(err)
	}
	if err := checkInstance("detail.instance-id", event.Detail.Instance); err != nil {
		return malformed(err)
	}
	at, err := parseTime("time", event.Time)
	if err != nil {
		return malformed(err)
	}
	return termination.Record{Termination: &termination.Termination{InstanceID: event.Detail.Instance, Began: at, Trigger: trigger}}
}

// parseHealthEvent reads an event of AWS Health about changes that EC2 has scheduled. It may name hosts and volumes beside instances, and
// ends of changes as well as new ones (https://docs.aws.amazon.com/health/latest/ug/aws-health-events-eventbridge-schema.html). Its
// texts and times are not read: EC2 has them.
func parseHealthEvent(data []byte) termination.Record {
	var event struct {
		Detail struct {
			Service  string `json:"service"`
			Category string `json:"eventTypeCategory"`
			Entities []struct {
				Value string `json:"entityValue"`
			} `json:"affectedEntities"`
		} `json:"detail"`
	}
	if err := decode(data, &event); err != nil {
		return malformed(err)
	}
	name := string(termination.HealthEvent)
	if event.Detail.Service != "EC2" || event.Detail.Category != "scheduledChange" {
		return termination.Record{NotOurs: name + ": not about a scheduled change of EC2"}
	}
	var ids []string
	for _, entity := range event.Detail.Entities {
		if instanceID.MatchString(entity.Value) {
			ids = append(ids, entity.Value)
		}
	}
	if len(ids) == 0 {
		return termination.Record{NotOurs: name + ": names no instance"}
	}
	return termination.Record{Claim: &termination.Claim{Trigger: termination.HealthEvent, InstanceIDs: ids}}
}

// stops are the states of an instance that stops, or has stopped
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/monitoring-instance-state-changes.html).
var stops = []string{"shutting-down", "stopping", "stopped"}

func parseStateChange(data []byte) termination.Record {
	var event struct {
		Detail struct {
			Instance string `json:"instance-id"`
			State    string `json:"state"`
		} `json:"detail"`
	}
	if err := decode(data, &event); err != nil {
		return malformed(err)
	}
	if err := checkInstance("detail.instance-id", event.Detail.Instance); err != nil {
		return malformed(err)
	}
	if !slices.Contains(stops, event.Detail.State) {
		return termination.Record{NotOurs: string(termination.StateChange) + ": " + quoted(event.Detail.State)}
	}
	return termination.Record{Claim: &termination.Claim{Trigger: termination.StateChange, InstanceIDs: []string{event.Detail.Instance}}}
}

// parseNotification reads a notification that a hook, or its group, sends to its own target.
func parseNotification(data []byte) termination.Record {
	var notification struct {
		Event      string `json:"Event"`
		Transition string `json:"LifecycleTransition"`
		Time       string `json:"Time"`
	}
	var action action
	if err := cmp.Or(decode(data, &notification), decode(data, &action)); err != nil {
		return malformed(err)
	}
	switch {
	case notification.Event != "":
		return termination.Record{NotOurs: "notification " + quoted(notification.Event)}
	case notification.Transition == "":
		return malformed(errors.New("LifecycleTransition: missing"))
	case notification.Transition != terminatingTransition:
		return termination.Record{NotOurs: "notification " + quoted(notification.Transition)}
	}
	if err := action.check(); err != nil {
		return malformed(err)
	}
	return action.record("Time", notification.Time)
}

// action has the fields of a lifecycle action. Both forms have the same names.
type action struct {
	Instance string `json:"EC2InstanceId"`
	Group    string `json:"AutoScalingGroupName"`
	Hook     string `json:"LifecycleHookName"`
	Token    string `json:"LifecycleActionToken"`
	Service  string `json:"Service"` // the sender, in a notification
}

func (a action) check() error {
	if err := checkInstance("EC2InstanceId", a.Instance); err != nil {
		return err
	}
	switch {
	case a.Group == "":
		return errors.New("AutoScalingGroupName: missing")
	case a.Hook == "":
		return errors.New("LifecycleHookName: missing")
	case a.Token == "" && a.Service != sweepService:
		return errors.New("LifecycleActionToken: missing")
	case a.Token != "" && len(a.Token) != tokenLength:
		return fmt.Errorf("LifecycleActionToken: must have %d characters: %s", tokenLength, quoted(a.Token))
	}
	return cmp.Or(checkLength("AutoScalingGroupName", a.Group), checkLength("LifecycleHookName", a.Hook))
}

// The longest name of a group or hook, and the length of a token. Auto Scaling refuses each request with a token of another length, so an
// event with one would keep the instance from its heartbeats
// (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_CompleteLifecycleAction.html).
const (
	maxName     = 255
	tokenLength = 36
)

func checkLength(key, value string) error {
	if len(value) > maxName {
		return fmt.Errorf("%s: longer than %d characters: %s", key, maxName, quoted(value))
	}
	return nil
}

func checkInstance(key, id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%s: missing", key)
	case !instanceID.MatchString(id):
		return fmt.Errorf("%s: not an instance id: %s", key, quoted(id))
	}
	return nil
}

// record returns the termination of a checked action. key is the key of the event's time.
func (a action) record(key, at string) termination.Record {
	began, err := parseTime(key, at)
	if err != nil {
		return malformed(err)
	}
	return termination.Record{Termination: &termination.Termination{
		Group: a.Group, Hook: a.Hook, Token: a.Token, InstanceID: a.Instance, Began: began,
	}}
}

func parseTime(key, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, fmt.Errorf("%s: missing", key)
	}
	at, err := time.Parse(time.RFC3339, text) // accepts fractions of a second
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: not a time in RFC 3339: %s", key, quoted(text))
	}
	return at, nil
}

// notificationTime is the time format of Auto Scaling's notifications.
const notificationTime = "2006-01-02T15:04:05.000Z"

// EncodeEvent returns a notification that Parse reads as this termination, without its token. The sweep sends it for a lost event, and knows
// no time: the zero time stands for that.
func EncodeEvent(t termination.Termination) string {
	text, _ := json.Marshal(struct { // cannot fail: strings only
		Service              string
		Time                 string
		AutoScalingGroupName string
		LifecycleHookName    string
		LifecycleTransition  string
		EC2InstanceID        string `json:"EC2InstanceId"`
	}{sweepService, t.Began.UTC().Format(notificationTime), t.Group, t.Hook, terminatingTransition, t.InstanceID})
	return string(text)
}
