package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"quiesce/internal/asg"
	"quiesce/internal/doctor"
	"quiesce/internal/queue"
	"quiesce/internal/termination"
)

// dlqVariable is the variable of the function that names its DLQ.
const dlqVariable = "QUIESCE_DLQ_URL"

// versionVariable is the variable of the function in which its stack says which version it deployed.
const versionVariable = "QUIESCE_VERSION"

// readAWS reads the account. Without credentials one finding says so.
func (r *reader) readAWS(ctx context.Context, cluster string) error {
	config, err := r.awsConfig(ctx)
	if err != nil {
		return err
	}
	cluster = cmp.Or(cluster, r.clusterOfNodes())
	ids := map[string]bool{}
	for i := range r.snapshot.Nodes {
		if id := doctor.InstanceID(&r.snapshot.Nodes[i]); id != "" {
			ids[id] = true
		}
	}
	groups := asg.NewGroups(config)
	found, err := groups.Settings(ctx, func(g termination.Group) bool { return doctor.Belongs(g, ids, cluster) && !g.Deleting })
	if err != nil {
		return r.awsError(err, "autoscaling:Describe*, ec2:DescribeInstances, lambda:GetFunctionConfiguration and lambda:GetFunctionConcurrency")
	}
	instances, err := groups.EC2Instances(ctx, slices.Sorted(maps.Keys(ids))...)
	if err != nil {
		return r.awsError(err, "ec2:DescribeInstances")
	}
	if err := wrongAccount(len(ids), len(instances), config.Region); err != nil {
		return err
	}
	r.snapshot.Groups, r.snapshot.Instances, r.snapshot.AWS, r.snapshot.Region = found, instances, true, config.Region
	if err := r.readFunction(ctx, config, cluster); err != nil {
		r.unread("function", err)
	}
	return nil
}

// awsError says what a person does about an error of AWS.
func (r *reader) awsError(err error, permission string) error {
	return advisedError{errors.New(plainText(err)), cmp.Or(r.nextStep(err, "", permission), "your AWS identity needs "+permission)}
}

// wrongAccount returns an error if EC2 knows none of the nodes' instances. Then it is another account or region, and says nothing about
// nodes.
func wrongAccount(wanted, known int, region string) error {
	if wanted == 0 || known > 0 {
		return nil
	}
	return advisedError{errors.New("none of the nodes' instances is in this account in region " + region), "check --profile and --region"}
}

func (r *reader) awsConfig(ctx context.Context) (aws.Config, error) {
	return r.account(ctx, regionOf(r.snapshot.Nodes))
}

// clusterOfNodes returns the name that eksctl writes on nodes; empty: none.
func (r *reader) clusterOfNodes() string {
	for _, n := range r.snapshot.Nodes {
		if name := n.Labels["alpha.eksctl.io/cluster-name"]; name != "" {
			return name
		}
	}
	return ""
}

// readFunction reads the function's state and its queues. There may be no function yet.
func (r *reader) readFunction(ctx context.Context, config aws.Config, cluster string) error {
	name := r.functionName(cluster)
	if name == "" {
		return advisedError{errors.New("the cluster's name is not known"), "name it with --cluster, or the function with --function"}
	}
	invoked := withAlias(name)
	client := lambda.NewFromConfig(config)
	described, err := client.GetFunctionConfiguration(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: &invoked})
	if _, missing := errors.AsType[*types.ResourceNotFoundException](err); missing {
		return nil
	}
	if err != nil {
		return r.awsError(fmt.Errorf("describe function %s: %w", invoked, err), "lambda:GetFunctionConfiguration")
	}
	f := &doctor.Function{Name: name, Invoked: invoked}
	switch {
	case described.State != "" && described.State != types.StateActive && described.State != types.StateInactive:
		f.Problem = "its state is " + string(described.State) + ": " + aws.ToString(described.StateReason)
	case described.LastUpdateStatus == types.LastUpdateStatusFailed:
		f.Problem = "its last update failed: " + aws.ToString(described.LastUpdateStatusReason)
	}
	r.snapshot.Function = f
	if err := r.readConcurrency(ctx, client, f); err != nil {
		r.unread("concurrency of quiesce", err)
	}
	if err := r.readMapping(ctx, client, f); err != nil {
		r.unread("event source mapping of quiesce", err)
	}
	if err := r.readNetwork(ctx, config, cluster, described.VpcConfig); err != nil {
		r.unread("network of quiesce", err)
	}
	if described.Environment == nil {
		return nil
	}
	f.Version = described.Environment.Variables[versionVariable]
	return r.readQueue(ctx, config, f, described.Environment.Variables[dlqVariable])
}

// readConcurrency finds whether the function is stopped: with no executions reserved, nothing can invoke it
// (https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html).
func (r *reader) readConcurrency(ctx context.Context, client *lambda.Client, f *doctor.Function) error {
	name := withoutAlias(f.Name) // an alias has none of its own
	reserved, err := client.GetFunctionConcurrency(ctx, &lambda.GetFunctionConcurrencyInput{FunctionName: &name})
	if err != nil {
		return r.awsError(fmt.Errorf("get the concurrency of function %s: %w", f.Name, err), "lambda:GetFunctionConcurrency")
	}
	if n := reserved.ReservedConcurrentExecutions; f.Problem == "" && n != nil && *n == 0 {
		f.Problem = "it is stopped, with a reserved concurrency of 0: the stack's output Resume starts it"
	}
	return nil
}

// readMapping finds whether the function gets no events: whoever stops it disables the mapping of its queue
// (https://docs.aws.amazon.com/lambda/latest/dg/invocation-eventsourcemapping.html). Other states pass by themselves.
func (r *reader) readMapping(ctx context.Context, client *lambda.Client, f *doctor.Function) error {
	found, err := client.ListEventSourceMappings(ctx, &lambda.ListEventSourceMappingsInput{FunctionName: &f.Invoked})
	if err != nil {
		return r.awsError(fmt.Errorf("list the event source mappings of function %s: %w", f.Invoked, err), "lambda:ListEventSourceMappings")
	}
	for _, m := range found.EventSourceMappings {
		if state := aws.ToString(m.State); f.Problem == "" && (state == "Disabled" || state == "Disabling") {
			f.Problem = "it gets no events, because its event source mapping is disabled: the stack's output Resume enables it"
		}
	}
	return nil
}

// readQueue counts the messages in the function's DLQ.
func (r *reader) readQueue(ctx context.Context, config aws.Config, f *doctor.Function, url string) (err error) {
	if url == "" {
		return nil
	}
	if f.DLQMessages, _, err = queue.New(config, url).Backlog(ctx); err != nil {
		return r.awsError(err, "sqs:GetQueueAttributes")
	}
	return nil
}

// functionName returns the name of the function, as the stack gives it.
func (r *reader) functionName(cluster string) string {
	settings := r.snapshot.Config
	settings.Cluster = cluster
	if r.function != "" || cluster == "" && settings.Stack.Name == "" || settings.CheckStackName() != nil {
		return r.function // also with an alias, or an ARN: Lambda takes all of them
	}
	return settings.StackName()
}
