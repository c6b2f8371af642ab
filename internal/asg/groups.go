package asg

import (
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"quiesce/internal/termination"
)

// Groups are the Auto Scaling groups of the account, and their EC2 instances.
type Groups struct {
	scaling *autoscaling.Client
	compute *ec2.Client
}

var _ termination.Groups = (*Groups)(nil)

// NewGroups creates the clients. It sends no request.
func NewGroups(config aws.Config) *Groups {
	return &Groups{scaling: autoscaling.NewFromConfig(config), compute: ec2.NewFromConfig(config)}
}

// Instances implements termination.Groups. A group that does not exist has none.
func (g *Groups) Instances(ctx context.Context, group string) ([]termination.Instance, error) {
	if group == "" {
		return nil, nil // without a name, the API describes every group of the account
	}
	output, err := g.scaling.DescribeAutoScalingGroups(ctx, &autoscaling.DescribeAutoScalingGroupsInput{
		AutoScalingGroupNames: []string{group},
	})
	if err != nil {
		return nil, fmt.Errorf("describe group %s: %w", group, err)
	}
	for _, g := range output.AutoScalingGroups {
		return toGroup(g).Instances, nil
	}
	return nil, nil
}

// GroupOf implements termination.Groups.
func (g *Groups) GroupOf(ctx context.Context, instanceID string) (string, error) {
	output, err := g.scaling.DescribeAutoScalingInstances(ctx, &autoscaling.DescribeAutoScalingInstancesInput{
		InstanceIds: []string{instanceID},
	})
	if err != nil {
		return "", fmt.Errorf("describe the group of %s: %w", instanceID, err)
	}
	for _, i := range output.AutoScalingInstances {
		return aws.ToString(i.AutoScalingGroupName), nil
	}
	return "", nil
}

// EC2Instances implements termination.Groups. It filters by ID, because an unknown ID in the request itself would fail it for
// all instances.
func (g *Groups) EC2Instances(ctx context.Context, instanceIDs ...string) (map[string]termination.EC2Instance, error) {
	found := map[string]termination.EC2Instance{}
	pages := ec2.NewDescribeInstancesPaginator(g.compute, &ec2.DescribeInstancesInput{
		Filters: []types.Filter{{Name: aws.String("instance-id"), Values: instanceIDs}},
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("describe instances: %w", err)
		}
		for _, reservation := range page.Reservations {
			for _, i := range reservation.Instances {
				found[aws.ToString(i.InstanceId)] = toEC2Instance(i)
			}
		}
	}
	return found, nil
}

// goneStates are the states that an instance never leaves
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html).
var goneStates = []types.InstanceStateName{types.InstanceStateNameShuttingDown, types.InstanceStateNameTerminated}

func toEC2Instance(i types.Instance) termination.EC2Instance {
	return termination.EC2Instance{
		PrivateDNS: aws.ToString(i.PrivateDnsName),
		Terminated: i.State != nil && slices.Contains(goneStates, i.State.Name),
		Spot:       i.InstanceLifecycle == types.InstanceLifecycleTypeSpot,
	}
}
