package asg

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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

// Group implements termination.Groups.
func (g *Groups) Group(ctx context.Context, name string) (termination.Group, error) {
	if name == "" {
		return termination.Group{}, nil // without a name, the API describes every group of the account
	}
	output, err := g.scaling.DescribeAutoScalingGroups(ctx, &autoscaling.DescribeAutoScalingGroupsInput{
		AutoScalingGroupNames: []string{name},
	})
	if err != nil {
		return termination.Group{}, fmt.Errorf("describe group %s: %w", name, err)
	}
	for _, g := range output.AutoScalingGroups {
		return toGroup(g), nil
	}
	return termination.Group{}, nil
}

// Instance implements termination.Groups.
func (g *Groups) Instance(ctx context.Context, instanceID string) (termination.Instance, error) {
	output, err := g.scaling.DescribeAutoScalingInstances(ctx, &autoscaling.DescribeAutoScalingInstancesInput{
		InstanceIds: []string{instanceID},
	})
	if err != nil {
		return termination.Instance{}, fmt.Errorf("describe the group of %s: %w", instanceID, err)
	}
	for _, i := range output.AutoScalingInstances {
		return termination.Instance{
			ID: instanceID, Group: aws.ToString(i.AutoScalingGroupName), Zone: aws.ToString(i.AvailabilityZone), State: aws.ToString(i.LifecycleState),
		}, nil
	}
	return termination.Instance{ID: instanceID}, nil
}

// WarmPool implements termination.Groups. DescribeAutoScalingGroups does not list these instances
// (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeWarmPool.html).
func (g *Groups) WarmPool(ctx context.Context, group string) (all []termination.Instance, err error) {
	pages := autoscaling.NewDescribeWarmPoolPaginator(g.scaling, &autoscaling.DescribeWarmPoolInput{AutoScalingGroupName: &group})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("describe the warm pool of %s: %w", group, err)
		}
		for _, i := range page.Instances {
			all = append(all, toInstance(group, i))
		}
	}
	return all, nil
}

// maxFilterValues is how many values the filters of one request to EC2 may have in all. EC2 answers FilterLimitExceeded to more. AWS
// documents no figure; the error names this one (https://github.com/gjbae1212/gossm/issues/47).
const maxFilterValues = 200

// EC2Instances implements termination.Groups. An error of one request does not lose what the others have found. It filters by ID,
// because an unknown ID in the request itself would fail it for all instances.
func (g *Groups) EC2Instances(ctx context.Context, instanceIDs ...string) (map[string]termination.EC2Instance, error) {
	found := map[string]termination.EC2Instance{}
	var failed error
	for ids := range slices.Chunk(instanceIDs, maxFilterValues) {
		failed = errors.Join(failed, g.addEC2Instances(ctx, found, ids))
	}
	return found, failed
}

func (g *Groups) addEC2Instances(ctx context.Context, found map[string]termination.EC2Instance, ids []string) error {
	pages := ec2.NewDescribeInstancesPaginator(g.compute, &ec2.DescribeInstancesInput{Filters: byInstance(ids...)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("describe instances: %w", err)
		}
		for _, reservation := range page.Reservations {
			for _, i := range reservation.Instances {
				found[aws.ToString(i.InstanceId)] = toEC2Instance(i)
			}
		}
	}
	return nil
}

func byInstance(ids ...string) []types.Filter {
	return []types.Filter{{Name: aws.String("instance-id"), Values: ids}}
}

// goneStates are the states that an instance never leaves
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html).
var goneStates = []types.InstanceStateName{types.InstanceStateNameShuttingDown, types.InstanceStateNameTerminated}

// stoppedStates are the states in which nothing runs on an instance, or soon will not, and which it can leave.
var stoppedStates = []types.InstanceStateName{types.InstanceStateNameStopping, types.InstanceStateNameStopped}

// stopReason returns EC2's code for the last change of state (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html).
func stopReason(i types.Instance) string {
	if i.StateReason == nil {
		return ""
	}
	return aws.ToString(i.StateReason.Code)
}

// addresses returns the addresses that the instance's node can have: its private IPv4 address, and in a cluster of IPv6 one of its
// interfaces'. The pods of a node have other addresses: those of IPv4 are secondary ones, and those of IPv6 are in prefixes.
func addresses(i types.Instance) (all []netip.Addr) {
	texts := []*string{i.PrivateIpAddress}
	for _, n := range i.NetworkInterfaces {
		for _, a := range n.Ipv6Addresses {
			texts = append(texts, a.Ipv6Address)
		}
	}
	for _, text := range texts {
		if a, err := netip.ParseAddr(aws.ToString(text)); err == nil {
			all = append(all, a)
		}
	}
	return all
}

func toEC2Instance(i types.Instance) termination.EC2Instance {
	return termination.EC2Instance{
		PrivateDNS: aws.ToString(i.PrivateDnsName),
		Addresses:  addresses(i),
		LaunchedAt: aws.ToTime(i.LaunchTime),
		Terminated: i.State != nil && slices.Contains(goneStates, i.State.Name),
		Stopped:    i.State != nil && (slices.Contains(goneStates, i.State.Name) || slices.Contains(stoppedStates, i.State.Name)),
		StopReason: stopReason(i),
		Spot:       i.InstanceLifecycle == types.InstanceLifecycleTypeSpot,
	}
}
