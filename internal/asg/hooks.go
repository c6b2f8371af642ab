package asg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/smithy-go"

	"quiesce/internal/termination"
)

// Hooks are the lifecycle hooks of the groups
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html).
type Hooks struct{ scaling *autoscaling.Client }

var _ termination.Hooks = (*Hooks)(nil)

// NewHooks creates the client. It sends no request.
func NewHooks(config aws.Config) *Hooks {
	return &Hooks{scaling: autoscaling.NewFromConfig(config)}
}

// Describe implements termination.Hooks.
func (h *Hooks) Describe(ctx context.Context, group, hook string) (termination.Hook, error) {
	output, err := h.scaling.DescribeLifecycleHooks(ctx, &autoscaling.DescribeLifecycleHooksInput{
		AutoScalingGroupName: &group, LifecycleHookNames: []string{hook},
	})
	if err != nil {
		return termination.Hook{}, fmt.Errorf("describe hook %s of %s: %w", hook, group, err)
	}
	if len(output.LifecycleHooks) == 0 {
		return termination.Hook{}, fmt.Errorf("describe hook %s of %s: %w", hook, group, termination.ErrNoHook)
	}
	return toHook(output.LifecycleHooks[0]), nil
}

func toHook(h types.LifecycleHook) termination.Hook {
	return termination.Hook{
		HeartbeatTimeout: seconds(h.HeartbeatTimeout),
		GlobalTimeout:    seconds(h.GlobalTimeout),
		DefaultResult:    termination.Result(aws.ToString(h.DefaultResult)),
		Launching:        aws.ToString(h.LifecycleTransition) == launching,
		ManagedBy:        managedBy(h.NotificationMetadata),
	}
}

// The lifecycle transitions of hooks.
const (
	launching   = "autoscaling:EC2_INSTANCE_LAUNCHING"
	terminating = "autoscaling:EC2_INSTANCE_TERMINATING"
)

// mark is what the NotificationMetadata of a hook says if quiesce put it. Events repeat it, and nothing believes them.
type mark struct {
	ManagedBy string `json:"managedBy"`
}

// managedBy returns the stack that put the hook; empty: the metadata is missing, or another tool's.
func managedBy(metadata *string) string {
	var m mark
	if json.Unmarshal([]byte(aws.ToString(metadata)), &m) != nil {
		return ""
	}
	return m.ManagedBy
}

// Put implements termination.Hooks.
func (h *Hooks) Put(ctx context.Context, group, hook string, settings termination.Hook) error {
	metadata, err := json.Marshal(mark{settings.ManagedBy})
	if err != nil {
		return fmt.Errorf("put hook %s of %s: %w", hook, group, err)
	}
	_, err = h.scaling.PutLifecycleHook(ctx, &autoscaling.PutLifecycleHookInput{
		AutoScalingGroupName: &group, LifecycleHookName: &hook, LifecycleTransition: aws.String(terminating),
		HeartbeatTimeout: aws.Int32(int32(settings.HeartbeatTimeout / time.Second)), DefaultResult: aws.String(string(settings.DefaultResult)),
		NotificationMetadata: aws.String(string(metadata)),
	})
	if err != nil {
		return fmt.Errorf("put hook %s of %s: %w", hook, group, err)
	}
	return nil
}

// Delete implements termination.Hooks.
func (h *Hooks) Delete(ctx context.Context, group, hook string) error {
	_, err := h.scaling.DeleteLifecycleHook(ctx, &autoscaling.DeleteLifecycleHookInput{
		AutoScalingGroupName: &group, LifecycleHookName: &hook,
	})
	if err != nil {
		return fmt.Errorf("delete hook %s of %s: %w", hook, group, err)
	}
	return nil
}

func seconds(n *int32) time.Duration { return time.Duration(aws.ToInt32(n)) * time.Second }

// Heartbeat implements termination.Hooks.
func (h *Hooks) Heartbeat(ctx context.Context, t termination.Termination) error {
	_, err := h.scaling.RecordLifecycleActionHeartbeat(ctx, &autoscaling.RecordLifecycleActionHeartbeatInput{
		AutoScalingGroupName: &t.Group, LifecycleHookName: &t.Hook, InstanceId: &t.InstanceID,
		LifecycleActionToken: token(t),
	})
	if err != nil {
		return fmt.Errorf("heartbeat for %s: %w", t.InstanceID, classify(err))
	}
	return nil
}

// Complete implements termination.Hooks. It sends one request: the answer to a repetition of one that succeeded is that there is no active
// action, as after the hook's timeout. The caller repeats it, and knows then that an answer was lost.
func (h *Hooks) Complete(ctx context.Context, t termination.Termination, result termination.Result) error {
	_, err := h.scaling.CompleteLifecycleAction(ctx, &autoscaling.CompleteLifecycleActionInput{
		AutoScalingGroupName: &t.Group, LifecycleHookName: &t.Hook, InstanceId: &t.InstanceID,
		LifecycleActionToken: token(t), LifecycleActionResult: aws.String(string(result)),
	}, func(o *autoscaling.Options) { o.RetryMaxAttempts = 1 })
	if err != nil {
		return fmt.Errorf("complete the lifecycle action of %s: %w", t.InstanceID, classify(err))
	}
	return nil
}

// token returns the token of the action. Without one, Auto Scaling uses the present action of the instance.
func token(t termination.Termination) *string {
	if t.Token == "" {
		return nil
	}
	return &t.Token
}

// classify returns ErrNoActiveAction for the validation error that means so. Its code is that of many errors, so the text
// decides.
func classify(err error) error {
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() == "ValidationError" &&
		strings.Contains(strings.ToLower(api.ErrorMessage()), "no active lifecycle action") {
		return fmt.Errorf("%w: %s", termination.ErrNoActiveAction, api.ErrorMessage())
	}
	return err
}
