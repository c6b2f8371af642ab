package awstest_test

import (
	"context"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdkconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	asgtypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

func filter(value string) []ec2types.Filter {
	return []ec2types.Filter{{Name: aws.String("instance-id"), Values: []string{value}}}
}

func loadConfig(t *testing.T) aws.Config {
	t.Helper()
	cfg, err := sdkconfig.LoadDefaultConfig(t.Context())
	require.NoError(t, err)
	cfg.HTTPClient = awstest.HTTPClient()
	return cfg
}

// scaling is a client of Auto Scaling for tests.
type scaling struct {
	*testing.T
	client *autoscaling.Client
}

func scalingOf(t *testing.T, s *awstest.Server) scaling {
	return scaling{t, autoscaling.NewFromConfig(config(s))}
}

func (c scaling) complete(token, result string) error {
	_, err := c.client.CompleteLifecycleAction(c.Context(), &autoscaling.CompleteLifecycleActionInput{
		AutoScalingGroupName: aws.String(group), LifecycleHookName: aws.String(hook),
		LifecycleActionToken: aws.String(token), LifecycleActionResult: aws.String(result),
	})
	return err
}

func (c scaling) completeByInstance(hook, result string) error {
	return completeByInstance(c.Context(), c.client, hook, result)
}

func completeByInstance(ctx context.Context, client *autoscaling.Client, hook, result string) error {
	_, err := client.CompleteLifecycleAction(ctx, &autoscaling.CompleteLifecycleActionInput{
		AutoScalingGroupName: aws.String(group), LifecycleHookName: aws.String(hook),
		InstanceId: aws.String(id), LifecycleActionResult: aws.String(result),
	})
	return err
}

func (c scaling) heartbeat(group, hook, token string) error {
	_, err := c.client.RecordLifecycleActionHeartbeat(c.Context(), &autoscaling.RecordLifecycleActionHeartbeatInput{
		AutoScalingGroupName: aws.String(group), LifecycleHookName: aws.String(hook), LifecycleActionToken: aws.String(token),
	})
	return err
}

// described returns the described state of the instance; empty if it is not described.
func (c scaling) described() string {
	c.Helper()
	out, err := c.client.DescribeAutoScalingGroups(c.Context(), &autoscaling.DescribeAutoScalingGroupsInput{
		AutoScalingGroupNames: []string{group},
	})
	require.NoError(c, err)
	require.Len(c, out.AutoScalingGroups, 1)
	for _, i := range out.AutoScalingGroups[0].Instances {
		if *i.InstanceId == id {
			return string(i.LifecycleState)
		}
	}
	return ""
}

// groups walks the pages of DescribeAutoScalingGroups.
func (c scaling) groups(in autoscaling.DescribeAutoScalingGroupsInput) (pages [][]asgtypes.AutoScalingGroup) {
	c.Helper()
	walk := autoscaling.NewDescribeAutoScalingGroupsPaginator(c.client, &in)
	for walk.HasMorePages() {
		out, err := walk.NextPage(c.Context())
		require.NoError(c, err)
		pages = append(pages, out.AutoScalingGroups)
	}
	return pages
}
