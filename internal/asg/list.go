package asg

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"

	"quiesce/internal/termination"
)

// groupPage is the maximum number of groups per request, with or without names
// (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeAutoScalingGroups.html).
const groupPage = 100

// List implements termination.Groups. It requests named groups in full pages. An error in one request does not affect the groups
// of the others.
func (g *Groups) List(ctx context.Context, names ...string) iter.Seq2[termination.Group, error] {
	return func(yield func(termination.Group, error) bool) {
		if len(names) == 0 {
			g.describe(ctx, nil, yield)
			return
		}
		for page := range slices.Chunk(names, groupPage) {
			if !g.describe(ctx, page, yield) {
				return
			}
		}
	}
}

// describe yields the groups with these names, or all groups. It reports whether the caller wants more.
func (g *Groups) describe(ctx context.Context, names []string, yield func(termination.Group, error) bool) (more bool) {
	pages := autoscaling.NewDescribeAutoScalingGroupsPaginator(g.scaling, &autoscaling.DescribeAutoScalingGroupsInput{
		AutoScalingGroupNames: names, MaxRecords: aws.Int32(groupPage),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return yield(termination.Group{}, fmt.Errorf("describe groups: %w", err))
		}
		for _, group := range page.AutoScalingGroups {
			if !yield(toGroup(group), nil) {
				return false
			}
		}
	}
	return true
}

func toGroup(g types.AutoScalingGroup) termination.Group {
	group := termination.Group{
		Name: aws.ToString(g.AutoScalingGroupName), Tags: map[string]string{}, CreatedAt: aws.ToTime(g.CreatedTime),
		Deleting: aws.ToString(g.Status) != "", WarmPool: g.WarmPoolConfiguration != nil,
		Missing: int(aws.ToInt32(g.DesiredCapacity)),
	}
	for _, tag := range g.Tags {
		group.Tags[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
	}
	for _, i := range g.Instances {
		group.Instances = append(group.Instances, toInstance(group.Name, i))
		if i.LifecycleState == types.LifecycleStateInService {
			group.Missing -= weight(i)
		}
	}
	return group
}

// weight returns how much of the desired capacity an instance is. Without weights each counts as one
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-mixed-instances-groups-instance-weighting.html).
func weight(i types.Instance) int {
	if weight, err := strconv.Atoi(aws.ToString(i.WeightedCapacity)); err == nil {
		return weight
	}
	return 1
}

func toInstance(group string, i types.Instance) termination.Instance {
	return termination.Instance{
		ID: aws.ToString(i.InstanceId), Group: group, Zone: aws.ToString(i.AvailabilityZone), State: string(i.LifecycleState),
		Protected: aws.ToBool(i.ProtectedFromScaleIn),
	}
}
