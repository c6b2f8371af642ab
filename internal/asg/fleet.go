package asg

import (
	"context"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"

	"quiesce/internal/termination"
)

// groupPage is the most groups that one request describes, named or not
// (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeAutoScalingGroups.html).
const groupPage = 100

// List implements termination.Groups. Named groups are asked for as many at once as the API takes, so that a fault of one request
// leaves the others.
func (g *Groups) List(ctx context.Context, names ...string) iter.Seq2[termination.Group, error] {
	return func(yield func(termination.Group, error) bool) {
		if len(names) == 0 {
			g.describe(ctx, nil, yield)
			return
		}
		for some := range slices.Chunk(names, groupPage) {
			if !g.describe(ctx, some, yield) {
				return
			}
		}
	}
}

// describe yields the groups of these names, or all, and tells whether more are wanted.
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
	group := termination.Group{Name: aws.ToString(g.AutoScalingGroupName)}
	for _, i := range g.Instances {
		group.Instances = append(group.Instances, termination.Instance{
			ID: aws.ToString(i.InstanceId), Zone: aws.ToString(i.AvailabilityZone), State: string(i.LifecycleState),
		})
	}
	return group
}

// described finds the instance in the description of an activity, such as "Terminating EC2 instance: i-0123456789abcdef0": no other
// field has it. Most starts never need it.
var described = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\bi-[0-9a-f]{8,17}\b`) })

// ActivityStarts implements termination.Groups. Activities that are under way are described first, so that what follows one that has ended
// is of no interest (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeScalingActivities.html).
func (g *Groups) ActivityStarts(ctx context.Context, group string) (map[string]time.Time, error) {
	began := map[string]time.Time{}
	pages := autoscaling.NewDescribeScalingActivitiesPaginator(g.scaling, &autoscaling.DescribeScalingActivitiesInput{
		AutoScalingGroupName: &group,
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("describe the activities of %s: %w", group, err)
		}
		for _, activity := range page.Activities {
			if activity.EndTime != nil {
				return began, nil
			}
			note(began, activity)
		}
	}
	return began, nil
}

// note enters the latest activity of each instance.
func note(began map[string]time.Time, activity types.Activity) {
	id, at := described().FindString(aws.ToString(activity.Description)), aws.ToTime(activity.StartTime)
	if id != "" && at.After(began[id]) {
		began[id] = at
	}
}
