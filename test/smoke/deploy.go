package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
)

// configure writes the configuration of this group.
func (s *smoke) configure(context.Context) (string, error) {
	text, err := s.configuration()
	if err != nil {
		return "", err
	}
	folder, err := filepath.Abs(s.Folder)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	s.path = filepath.Join(folder, "quiesce.yaml")
	return s.path, os.WriteFile(s.path, []byte(text), 0o644)
}

// deploy deploys the configuration, and looks for the hook. What it may have made is deleted even if it fails.
func (s *smoke) deploy(ctx context.Context) (string, error) {
	s.undo = append(s.undo,
		step{"look whether the group is as before", groupLimit, s.checkRestored},
		step{"delete the stack", undoLimit, func(ctx context.Context) (string, error) {
			return s.stackName(), s.Destroy(ctx, s.path, s.target.hadRBAC)
		}})
	if err := s.Deploy(ctx, s.path); err != nil {
		return "", err
	}
	out, err := s.asg.DescribeLifecycleHooks(ctx, &autoscaling.DescribeLifecycleHooksInput{
		AutoScalingGroupName: &s.Group, LifecycleHookNames: []string{hook},
	})
	if err != nil {
		return "", err
	}
	if len(out.LifecycleHooks) == 0 {
		return "", fmt.Errorf("group %s has no hook %q", s.Group, hook)
	}
	return fmt.Sprintf("hook %s with a timeout of %d s", hook, aws.ToInt32(out.LifecycleHooks[0].HeartbeatTimeout)), nil
}

// checkRestored waits until the group has its instances again, and compares it with what it was.
func (s *smoke) checkRestored(ctx context.Context) (string, error) {
	var now groupState
	err := s.until(ctx, fmt.Sprintf("%d instances are in service again", s.before.inService), func() (bool, error) {
		group, err := s.describeGroup(ctx)
		if err != nil {
			return false, err
		}
		now, err = s.stateOf(ctx, group)
		return now.inService == s.before.inService, err
	})
	if !slices.Equal(now.hooks, s.before.hooks) {
		err = errors.Join(err, fmt.Errorf("its hooks were %v, and are %v", s.before.hooks, now.hooks))
	}
	if now.desired != s.before.desired {
		err = errors.Join(err, fmt.Errorf("its desired capacity was %d, and is %d", s.before.desired, now.desired))
	}
	return fmt.Sprintf("hooks %v, %d of %d instances in service", now.hooks, now.inService, now.desired), err
}
