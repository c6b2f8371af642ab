package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	asgtypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// logSkew is how far the clock of the logs may be behind this machine's.
const logSkew = 10 * time.Minute

// planDrain asks for a plan, until the cluster lets the function in.
func (s *smoke) planDrain(ctx context.Context) (string, error) {
	var plan termination.Report
	err := s.until(ctx, "the function can plan", func() (bool, error) {
		var err error
		plan, err = s.invoke(ctx, map[string]string{"action": "plan", "instanceId": s.target.instance})
		return plan.Status == termination.StatusPlanned, err
	})
	if err != nil {
		return "", err
	}
	s.plan = plan.StartedAt
	planned := map[string]drain.Verdict{}
	for _, p := range plan.Pods {
		planned[p.Namespace+"/"+p.Name] = p.Verdict
	}
	for _, p := range s.pods.on(s.target.node) {
		if verdict := planned[namespace+"/"+p.Name]; verdict != drain.Evict {
			err = errors.Join(err, fmt.Errorf("the plan's verdict for %s is %q", p.Name, verdict))
		}
	}
	if plan.Node != s.target.node {
		err = errors.Join(err, fmt.Errorf("the plan is for node %q", plan.Node))
	}
	return fmt.Sprintf("%d pods on %s, %d of them ours", len(plan.Pods), plan.Node, len(s.pods.on(s.target.node))), err
}

// invoke invokes the function, and returns its report.
func (s *smoke) invoke(ctx context.Context, event any) (r termination.Report, err error) {
	payload, err := json.Marshal(event)
	if err != nil {
		return r, err
	}
	out, err := s.lambda.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String(s.stackName() + ":live"), Payload: payload})
	if err != nil {
		return r, err
	}
	if out.FunctionError != nil {
		return r, fmt.Errorf("the function ended in error: %s", out.Payload)
	}
	if err := json.Unmarshal(out.Payload, &r); err != nil {
		return r, fmt.Errorf("read the answer %s: %w", out.Payload, err)
	}
	if r.Status != termination.StatusPlanned {
		err = fmt.Errorf("the answer is %s: %s", r.Status, r.Reason)
	}
	return r, err
}

// terminate does what Auto Scaling does when it scales in, except that the group launches a replacement.
func (s *smoke) terminate(ctx context.Context) (string, error) {
	s.seen.terminated = time.Now()
	out, err := s.asg.TerminateInstanceInAutoScalingGroup(ctx, &autoscaling.TerminateInstanceInAutoScalingGroupInput{
		InstanceId: &s.target.instance, ShouldDecrementDesiredCapacity: aws.Bool(false),
	})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.Activity.Description), nil
}

// awaitEnd waits until the group has the instance no more, and remembers how long hooks held it.
func (s *smoke) awaitEnd(ctx context.Context) (string, error) {
	var states []string
	err := s.until(ctx, "the instance is gone", func() (bool, error) {
		state, err := s.state(ctx)
		if err != nil {
			return false, err
		}
		if len(states) == 0 || states[len(states)-1] != state {
			states = append(states, state)
		}
		waits := strings.HasPrefix(state, string(asgtypes.LifecycleStateTerminatingWait))
		s.seen.waited = s.seen.waited || waits
		if s.seen.waited && !waits && s.seen.released.IsZero() {
			released := time.Now()
			if s.seen.present, err = s.podsOnNode(ctx); err != nil {
				return false, err
			}
			s.seen.released = released
		}
		return state == "gone", nil
	})
	return strings.Join(states, ", "), err
}

// podsOnNode returns the names of the test pods that are on the node now. It asks the API server: the watch of the pods may be late.
func (s *smoke) podsOnNode(ctx context.Context) (names []string, err error) {
	list, err := s.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + s.target.node})
	if err != nil {
		return nil, err
	}
	for _, p := range list.Items {
		names = append(names, p.Name)
	}
	return names, nil
}

func (s *smoke) state(ctx context.Context) (string, error) {
	out, err := s.asg.DescribeAutoScalingInstances(ctx, &autoscaling.DescribeAutoScalingInstancesInput{InstanceIds: []string{s.target.instance}})
	if err != nil {
		return "", err
	}
	if len(out.AutoScalingInstances) == 0 {
		return "gone", nil
	}
	return aws.ToString(out.AutoScalingInstances[0].LifecycleState), nil
}

// readReport reads the drain's report from the function's log, and the events of the node.
func (s *smoke) readReport(ctx context.Context) (string, error) {
	err := s.until(ctx, "the log has the report", func() (found bool, err error) {
		s.seen.report, found, err = s.findReport(ctx)
		return found, err
	})
	if err != nil {
		return "", err
	}
	r := s.seen.report
	note := fmt.Sprintf("%s, %s: %s", r.Status, r.LifecycleResult, r.Reason)
	if r.Status != termination.StatusDrained {
		return note, nil // a drain that did not end well may have no event
	}
	return note, s.until(ctx, "the node has the event Drained", func() (found bool, err error) {
		s.seen.events, err = s.nodeEvents(ctx)
		return len(s.seen.events) >= len(nodeEvents), err
	})
}

// handled is the log's message for an event that no later invocation continues.
const handled = "event handled"

// findReport returns the first report about the instance after the plan.
func (s *smoke) findReport(ctx context.Context) (termination.Report, bool, error) {
	pages := cloudwatchlogs.NewFilterLogEventsPaginator(s.logs, &cloudwatchlogs.FilterLogEventsInput{
		LogGroupName: aws.String("/aws/lambda/" + s.stackName()), StartTime: aws.Int64(s.began.Add(-logSkew).UnixMilli()),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return termination.Report{}, false, err
		}
		for _, e := range page.Events {
			var line struct {
				Msg    string
				Report termination.Report
			}
			if json.Unmarshal([]byte(aws.ToString(e.Message)), &line) == nil && line.Msg == handled && s.isFinal(line.Report) {
				return line.Report, true, nil
			}
		}
	}
	return termination.Report{}, false, nil
}

func (s *smoke) isFinal(r termination.Report) bool {
	return r.InstanceID == s.target.instance && r.Status != termination.StatusSkipped && r.StartedAt.After(s.plan)
}

// nodeEvents are the events that a drain writes on its node.
var nodeEvents = []string{"Draining", "Drained"}

// nodeEvents returns the reasons of the events that quiesce wrote on the node.
func (s *smoke) nodeEvents(ctx context.Context) (reasons []string, err error) {
	events, err := s.kube.CoreV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{
		FieldSelector: "involvedObject.kind=Node,involvedObject.name=" + s.target.node,
	})
	if err != nil {
		return nil, err
	}
	for _, e := range events.Items {
		if e.Source.Component == "quiesce" && e.FirstTimestamp.Time.After(s.began.Add(-logSkew)) {
			reasons = append(reasons, e.Reason)
		}
	}
	return reasons, nil
}
