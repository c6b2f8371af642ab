package asg

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"quiesce/internal/termination"
)

// statusPage is the maximum number of instances per request
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceStatus.html).
const statusPage = 1000

// ScheduledChanges implements termination.Groups. EC2 filters by the code of the change: without that it would describe every instance of
// the account. It has no filter for instances, and an unknown ID would fail the whole request.
func (g *Groups) ScheduledChanges(ctx context.Context) (all []termination.ScheduledChange, err error) {
	var codes []string
	for _, code := range types.EventCode("").Values() {
		codes = append(codes, string(code))
	}
	pages := ec2.NewDescribeInstanceStatusPaginator(g.compute, &ec2.DescribeInstanceStatusInput{
		Filters: []types.Filter{{Name: aws.String("event.code"), Values: codes}}, MaxResults: aws.Int32(statusPage),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("describe scheduled changes: %w", err)
		}
		for _, status := range page.InstanceStatuses {
			for _, event := range status.Events {
				if !isOver(aws.ToString(event.Description)) {
					all = append(all, termination.ScheduledChange{
						InstanceID: aws.ToString(status.InstanceId), Code: string(event.Code), NotBefore: aws.ToTime(event.NotBefore),
					})
				}
			}
		}
	}
	return all, nil
}

// isOver reports whether a scheduled change has taken place, or will not. EC2 describes it for a week more, and says so only in the
// description (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceStatusEvent.html).
func isOver(description string) bool {
	text := strings.ToLower(description)
	return strings.HasPrefix(text, "[completed]") || strings.HasPrefix(text, "[canceled]")
}

// Terminate implements termination.Groups. The desired capacity stays, so that the group launches a replacement. Scale-in protection does
// not keep the instance
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-instance-protection.html).
func (g *Groups) Terminate(ctx context.Context, instanceID string) error {
	_, err := g.scaling.TerminateInstanceInAutoScalingGroup(ctx, &autoscaling.TerminateInstanceInAutoScalingGroupInput{
		InstanceId: &instanceID, ShouldDecrementDesiredCapacity: aws.Bool(false),
	})
	if err != nil {
		return fmt.Errorf("terminate %s: %w", instanceID, err)
	}
	return nil
}
