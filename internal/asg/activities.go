package asg

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
)

// describedInstance finds the instance in the description of an activity, such as "Terminating EC2 instance:
// i-0123456789abcdef0". No other field has it. It is compiled on first use, because most processes never need it.
var describedInstance = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\bi-[0-9a-f]{8,17}\b`) })

// ActivityStarts implements termination.Groups. Auto Scaling lists activities in progress first, so the first one that has ended
// ends the search (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeScalingActivities.html).
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
			setLatest(began, activity)
		}
	}
	return began, nil
}

// setLatest sets the start of the latest activity of each instance.
func setLatest(began map[string]time.Time, activity types.Activity) {
	id, at := describedInstance().FindString(aws.ToString(activity.Description)), aws.ToTime(activity.StartTime)
	if id != "" && at.After(began[id]) {
		began[id] = at
	}
}

// maxEndedPages bounds the pages of ended activities that are read for one group: 500 activities. An instance whose termination ended
// before those has an unknown age. Busy groups have thousands, and a sweep runs every minute.
const maxEndedPages = 5

// TerminationEnds implements termination.Groups. Ended activities follow those in progress, the latest first. Auto Scaling keeps them for
// six weeks (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeScalingActivities.html).
func (g *Groups) TerminationEnds(ctx context.Context, group string, instanceIDs ...string) (map[string]time.Time, error) {
	ends, seen := map[string]time.Time{}, map[string]bool{}
	pages := autoscaling.NewDescribeScalingActivitiesPaginator(g.scaling, &autoscaling.DescribeScalingActivitiesInput{
		AutoScalingGroupName: &group,
	})
	for n := 0; n < maxEndedPages && pages.HasMorePages() && len(seen) < len(instanceIDs); n++ {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return ends, fmt.Errorf("describe the activities of %s: %w", group, err)
		}
		for _, activity := range page.Activities {
			// The latest one decides. In progress, it has no end yet.
			id := describedInstance().FindString(aws.ToString(activity.Description))
			if !slices.Contains(instanceIDs, id) || seen[id] {
				continue
			}
			if seen[id] = true; activity.EndTime != nil {
				ends[id] = *activity.EndTime
			}
		}
	}
	return ends, nil
}
