package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	asgtypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// smokeTag on a group says that its instances may be terminated for a test.
	smokeTag = "quiesce/smoke"
	hook     = "quiesce"
	// rbacNamespace is the namespace that infra/rbac.yaml makes.
	rbacNamespace = "quiesce"
)

// groupState is what of a group must be as it was.
type groupState struct {
	desired, inService int
	hooks              []string
	instances          []asgtypes.Instance
}

// preflight looks at everything and changes nothing. It refuses whatever may be used by others.
func (s *smoke) preflight(ctx context.Context) (string, error) {
	who, err := s.caller.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return "", err
	}
	s.target.account = aws.ToString(who.Account)
	if err := errors.Join(s.checkGroup(ctx), s.checkCluster(ctx), s.checkLeftovers(ctx)); err != nil {
		return "", err
	}
	if err := s.chooseInstance(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("account %s, region %s, cluster %s, group %s with %d instances; %s, node %s", s.target.account, s.region, s.Cluster,
		s.Group, s.before.inService, s.target.instance, s.target.node), nil
}

func (s *smoke) checkGroup(ctx context.Context) error {
	group, err := s.describeGroup(ctx)
	if err != nil {
		return err
	}
	tagged := slices.ContainsFunc(group.Tags, func(t asgtypes.TagDescription) bool {
		return aws.ToString(t.Key) == smokeTag && aws.ToString(t.Value) == "true"
	})
	if !tagged {
		return fmt.Errorf("group %s has no tag %s=true: an instance of it would be terminated", s.Group, smokeTag)
	}
	if n := len(group.Instances); n > s.MaxInstances {
		return fmt.Errorf("group %s has %d instances: a scratch group has at most %d (MAX_INSTANCES)", s.Group, n, s.MaxInstances)
	}
	if s.before, err = s.stateOf(ctx, group); err != nil {
		return err
	}
	if slices.Contains(s.before.hooks, hook) {
		return fmt.Errorf("group %s has a hook %q already: another deployment drains it", s.Group, hook)
	}
	return nil
}

func (s *smoke) describeGroup(ctx context.Context) (asgtypes.AutoScalingGroup, error) {
	out, err := s.asg.DescribeAutoScalingGroups(ctx, &autoscaling.DescribeAutoScalingGroupsInput{AutoScalingGroupNames: []string{s.Group}})
	if err != nil {
		return asgtypes.AutoScalingGroup{}, err
	}
	if len(out.AutoScalingGroups) == 0 {
		return asgtypes.AutoScalingGroup{}, fmt.Errorf("no Auto Scaling group %s in %s", s.Group, s.region)
	}
	return out.AutoScalingGroups[0], nil
}

func (s *smoke) stateOf(ctx context.Context, group asgtypes.AutoScalingGroup) (groupState, error) {
	state := groupState{desired: int(aws.ToInt32(group.DesiredCapacity)), instances: group.Instances}
	for _, i := range group.Instances {
		if i.LifecycleState == asgtypes.LifecycleStateInService {
			state.inService++
		}
	}
	out, err := s.asg.DescribeLifecycleHooks(ctx, &autoscaling.DescribeLifecycleHooksInput{AutoScalingGroupName: &s.Group})
	if err != nil {
		return groupState{}, err
	}
	for _, h := range out.LifecycleHooks {
		state.hooks = append(state.hooks, aws.ToString(h.LifecycleHookName))
	}
	slices.Sort(state.hooks)
	return state, nil
}

// checkCluster compares the cluster with that of KUBECONFIG: nodes of another one would get the test pods.
func (s *smoke) checkCluster(ctx context.Context) error {
	out, err := s.eks.DescribeCluster(ctx, &eks.DescribeClusterInput{Name: &s.Cluster})
	if err != nil {
		return err
	}
	if endpoint := aws.ToString(out.Cluster.Endpoint); !strings.EqualFold(endpoint, s.host) {
		return fmt.Errorf("KUBECONFIG is for %s, and cluster %s is %s: run aws eks update-kubeconfig --name %s", s.host, s.Cluster, endpoint, s.Cluster)
	}
	s.target.kubernetes = aws.ToString(out.Cluster.Version)
	return nil
}

// checkLeftovers refuses to go on over another deployment for this cluster, or over what an earlier run left.
func (s *smoke) checkLeftovers(ctx context.Context) error {
	_, err := s.lambda.GetFunctionConfiguration(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: aws.String(s.stackName())})
	var missing *types.ResourceNotFoundException
	switch {
	case err == nil:
		return fmt.Errorf("function %s exists: quiesce is deployed for this cluster, and would be replaced", s.stackName())
	case !errors.As(err, &missing):
		return err
	}
	switch there, err := s.hasNamespace(ctx, namespace); {
	case err != nil:
		return err
	case there:
		return fmt.Errorf("an earlier run left its pods: kubectl delete namespace %s", namespace)
	}
	s.target.hadRBAC, err = s.hasNamespace(ctx, rbacNamespace)
	return err
}

func (s *smoke) hasNamespace(ctx context.Context, name string) (bool, error) {
	_, err := s.kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// chooseInstance chooses an instance in service whose node takes pods. Another node must be there for the evicted ones.
func (s *smoke) chooseInstance(ctx context.Context) error {
	nodes, err := s.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	open := slices.DeleteFunc(nodes.Items, func(n corev1.Node) bool { return !takesPods(n) })
	for _, i := range s.before.instances {
		id := aws.ToString(i.InstanceId)
		at := slices.IndexFunc(open, func(n corev1.Node) bool { return strings.HasSuffix(n.Spec.ProviderID, "/"+id) })
		if at >= 0 && i.LifecycleState == asgtypes.LifecycleStateInService {
			s.target.instance, s.target.node, s.target.zone = id, open[at].Name, aws.ToString(i.AvailabilityZone)
			if len(open) < 2 {
				return errors.New("evicted pods need a second node that takes pods: scale the group to two")
			}
			return nil
		}
	}
	return fmt.Errorf("no instance of %s is in service with a node that takes pods", s.Group)
}

// takesPods reports whether pods without tolerations run on a node.
func takesPods(n corev1.Node) bool {
	if n.Spec.Unschedulable || slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Effect != corev1.TaintEffectPreferNoSchedule }) {
		return false
	}
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
