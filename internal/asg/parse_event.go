package asg

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"quiesce/internal/termination"
)

// Auto Scaling's words for a termination that waits on a hook, as an EventBridge event and as a hook's own notification:
// https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-event-reference.html and
// https://docs.aws.amazon.com/autoscaling/ec2/userguide/prepare-for-lifecycle-notifications.html.
const (
	terminateDetailType   = "EC2 Instance-terminate Lifecycle Action"
	terminatingTransition = "autoscaling:EC2_INSTANCE_TERMINATING"
)

// sweepService is what the sweep writes as the Service of a notification, where Auto Scaling writes "AWS Auto Scaling". It
// learnt of the action from the instance's state, which does not tell the token.
const sweepService = "quiesce"

// instanceID is the form of an EC2 instance id, old (8 digits) or new (17):
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/resource-ids.html. Nothing else is let through: ids become parts of
// URLs and of log lines.
var instanceID = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)

// parseEvent reads one event that nothing is wrapped around.
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

// parseEventBridge goes by the detail type alone: of other types nothing more is known, and nothing more is asked.
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
		return parseNotice(data, termination.Trigger(detailType))
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
	return event.Detail.begun("time", event.Time)
}

// parseNotice reads a warning of EC2's. Its resource's ARN has a zone where others have a region, so that the detail tells the
// instance.
func parseNotice(data []byte, notice termination.Trigger) termination.Record {
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
	return termination.Record{Termination: &termination.Termination{InstanceID: event.Detail.Instance, Began: at, Trigger: notice}}
}

// parseNotification reads what a hook, or its group, sends to a target of its own.
func parseNotification(data []byte) termination.Record {
	var notice struct {
		Event      string `json:"Event"`
		Transition string `json:"LifecycleTransition"`
		Time       string `json:"Time"`
	}
	var action action
	if err := cmp.Or(decode(data, &notice), decode(data, &action)); err != nil {
		return malformed(err)
	}
	switch {
	case notice.Event != "":
		return termination.Record{NotOurs: "notification " + quoted(notice.Event)}
	case notice.Transition == "":
		return malformed(errors.New("LifecycleTransition: missing"))
	case notice.Transition != terminatingTransition:
		return termination.Record{NotOurs: "notification " + quoted(notice.Transition)}
	}
	if err := action.check(); err != nil {
		return malformed(err)
	}
	return action.begun("Time", notice.Time)
}

// action is what either form says of a lifecycle action, under the same names.
type action struct {
	Instance string `json:"EC2InstanceId"`
	Group    string `json:"AutoScalingGroupName"`
	Hook     string `json:"LifecycleHookName"`
	Token    string `json:"LifecycleActionToken"`
	Service  string `json:"Service"` // who says so, in a notification
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

// begun makes a termination of a checked action; key is where the event has its time.
func (a action) begun(key, at string) termination.Record {
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
	at, err := time.Parse(time.RFC3339, text) // which takes fractions of a second too
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: not a time in RFC 3339: %s", key, quoted(text))
	}
	return at, nil
}

// notificationTime is the precision of Auto Scaling's own.
const notificationTime = "2006-01-02T15:04:05.000Z"

// EncodeEvent writes a termination as a notification that Parse reads: the sweep's, of an event that was lost. It has no token.
func EncodeEvent(t termination.Termination) string {
	text, _ := json.Marshal(struct { // of strings: it cannot fail
		Service              string
		Time                 string
		AutoScalingGroupName string
		LifecycleHookName    string
		LifecycleTransition  string
		EC2InstanceID        string `json:"EC2InstanceId"`
	}{sweepService, t.Began.UTC().Format(notificationTime), t.Group, t.Hook, terminatingTransition, t.InstanceID})
	return string(text)
}
