package asg

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"

	"quiesce/internal/termination"
)

// Settings is how a group is set up, as far as that decides how its instances leave.
type Settings struct {
	termination.Group
	Zones      []string
	Suspended  []string // processes that are suspended, such as AZRebalance
	MinHealthy int      // percent, of the instance maintenance policy; NoPolicy: there is none
	Retains    bool     // an instance whose hook for terminations was abandoned is kept
	Hooks      []NamedHook
}

// NoPolicy is the MinHealthy of a group without an instance maintenance policy.
const NoPolicy = -1

// NamedHook is a lifecycle hook with its name.
type NamedHook struct {
	Name string
	termination.Hook
}

// hooksAtOnce bounds the requests for hooks at one time. The account shares one bucket of requests, and a person waits for some ten groups.
const hooksAtOnce = 8

// Settings returns the settings of the groups of the account that are wanted. An error of one group does not lose the others.
func (g *Groups) Settings(ctx context.Context, wanted func(termination.Group) bool) (all []Settings, err error) {
	pages := autoscaling.NewDescribeAutoScalingGroupsPaginator(g.scaling, &autoscaling.DescribeAutoScalingGroupsInput{
		MaxRecords: aws.Int32(groupPage),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("describe groups: %w", err)
		}
		for _, described := range page.AutoScalingGroups {
			if wanted(toGroup(described)) {
				all = append(all, toSettings(described))
			}
		}
	}
	return all, g.addHooks(ctx, all)
}

func toSettings(g types.AutoScalingGroup) Settings {
	s := Settings{Group: toGroup(g), Zones: g.AvailabilityZones, MinHealthy: NoPolicy}
	for _, p := range g.SuspendedProcesses {
		s.Suspended = append(s.Suspended, aws.ToString(p.ProcessName))
	}
	if policy := g.InstanceMaintenancePolicy; policy != nil && policy.MinHealthyPercentage != nil {
		s.MinHealthy = int(*policy.MinHealthyPercentage)
	}
	if policy := g.InstanceLifecyclePolicy; policy != nil && policy.RetentionTriggers != nil {
		s.Retains = policy.RetentionTriggers.TerminateHookAbandon == types.RetentionActionRetain
	}
	return s
}

// addHooks adds the hooks of each group.
func (g *Groups) addHooks(ctx context.Context, all []Settings) error {
	errs := make([]error, len(all))
	turns := make(chan struct{}, hooksAtOnce)
	var asking sync.WaitGroup
	for n := range all {
		turns <- struct{}{}
		asking.Go(func() {
			defer func() { <-turns }()
			all[n].Hooks, errs[n] = g.hooksOf(ctx, all[n].Name)
		})
	}
	asking.Wait()
	return errors.Join(errs...)
}

func (g *Groups) hooksOf(ctx context.Context, group string) (all []NamedHook, err error) {
	output, err := g.scaling.DescribeLifecycleHooks(ctx, &autoscaling.DescribeLifecycleHooksInput{AutoScalingGroupName: &group})
	if err != nil {
		return nil, fmt.Errorf("describe the hooks of %s: %w", group, err)
	}
	for _, found := range output.LifecycleHooks {
		all = append(all, NamedHook{aws.ToString(found.LifecycleHookName), toHook(found)})
	}
	return all, nil
}
