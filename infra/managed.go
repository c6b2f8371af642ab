package main

import (
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"quiesce/internal/config"
)

const (
	// hooksTimeout is the timeout of the function that puts and removes hooks. It sends two requests per group, a few at a time, so a
	// hundred groups take seconds. The rest is for throttling, and for the minutes before second tries. With a new name, hooks are put and
	// removed. A shorter time could leave former hooks; a longer one delays a deployment that cannot succeed.
	hooksTimeout = 10 * time.Minute
	// hooksRetries is how often Lambda invokes that function again if it crashed or could not answer.
	hooksRetries = 1
	// hooksWait is how long the stack waits for the answer: for each invocation, and for the minutes that Lambda waits between them
	// (https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html). The default would be an hour.
	hooksWait = (1+hooksRetries)*hooksTimeout + 5*time.Minute
	// hooksMemory, in MB, is enough for the program (30 MB), and gives a share of a CPU that starts it within a second.
	hooksMemory = 256
)

// newManagedHooks adds the custom resource that puts our hook on all matching groups when the stack is created, and removes it when the
// stack is deleted. The groups that quiesce.yaml names without a glob have their hooks from newHooks already.
//
// The custom resource is created after all that the stack has so far, and deleted before it. Only the sweep's permission to put hooks is
// deleted earlier: otherwise a sweep could put a hook again, which would stay for ever.
func newManagedHooks(stack awscdk.Stack, d deployment, p parts) {
	if !d.Lifecycle.ManageHooks {
		return
	}
	earlier := *stack.Node().Children()
	all := constructs.NewConstruct(stack, jsii.String("ManagedHooks"))
	function := newHooksFunction(all, stack, d)
	resource := awscdk.NewCfnResource(all, jsii.String("Hooks"), &awscdk.CfnResourceProps{
		Type:       jsii.String("Custom::LifecycleHooks"),
		Properties: hookProperties(d, function),
	})
	resource.Node().AddDependency(function)
	for _, construct := range earlier {
		resource.Node().AddDependency(construct)
	}
	allowed := putPermissions(stack, d)
	put := awsiam.NewCfnRolePolicy(all, jsii.String("PutHooks"), &awsiam.CfnRolePolicyProps{
		PolicyName: jsii.String("put-hooks"), RoleName: p.role.RoleName(),
		PolicyDocument: awsiam.NewPolicyDocument(&awsiam.PolicyDocumentProps{
			Statements: &allowed,
		}),
	})
	put.Node().AddDependency(resource)
}

// putPermissions returns what the sweep's role is allowed beyond permissions, if the stack manages hooks.
func putPermissions(stack awscdk.Stack, d deployment) []awsiam.PolicyStatement {
	if !d.Lifecycle.ManageHooks {
		return nil
	}
	return onGroups(stack, d, "PutHooks", "autoscaling:PutLifecycleHook")
}

// hookProperties returns all that the hooks depend on. A change of one makes CloudFormation ask for an update. The function has the
// same from its zip. It reads only the former name of the hook here.
func hookProperties(d deployment, function awslambda.Function) *map[string]any {
	groups := jsii.Strings(d.Groups.Names...)
	for _, tag := range d.Groups.Tags {
		*groups = append(*groups, jsii.String("tag "+tag.Key+"="+tag.Value))
	}
	return &map[string]any{
		"ServiceToken":      function.FunctionArn(),
		"ServiceTimeout":    hooksWait.Seconds(),
		config.HookProperty: d.Lifecycle.Hook,
		"HeartbeatTimeout":  d.HeartbeatTimeout().Seconds(),
		"DefaultResult":     string(d.Lifecycle.OnFailure),
		"Groups":            groups,
	}
}

// newHooksFunction creates the function behind the custom resource. It is the same zip with another handler. It is in no VPC and reserves
// no executions, so that a stack can be deleted while the function that drains is stopped, broken or cut off.
func newHooksFunction(scope constructs.Construct, stack awscdk.Stack, d deployment) awslambda.Function {
	logs := newLogGroup(scope, d, hooksLogGroupName(d))
	variables := configText(d.hooksText)
	allowed := hooksPermissions(stack, d)
	role := newFunctionRole(scope, "Puts and removes the lifecycle hooks of "+d.StackName(), allowed)
	checkSize(stack, role, allowed)
	return awslambda.NewFunction(scope, jsii.String("Function"), &awslambda.FunctionProps{
		Description:   jsii.String("quiesce: puts and removes the lifecycle hooks of " + d.StackName()),
		Runtime:       awslambda.Runtime_PROVIDED_AL2023(),
		Architecture:  awslambda.Architecture_ARM_64(),
		Handler:       jsii.String(config.HooksHandler),
		Code:          awslambda.Code_FromAsset(jsii.String(d.zip), nil),
		MemorySize:    jsii.Number(hooksMemory),
		Timeout:       duration(hooksTimeout),
		Role:          role.WithoutPolicyUpdates(nil), // hooksPermissions are all
		Environment:   &variables,
		LogGroup:      logs,
		LoggingFormat: awslambda.LoggingFormat_JSON,
		RetryAttempts: jsii.Number(hooksRetries),
		MaxEventAge:   duration(hooksWait), // then CloudFormation has given up
	})
}

// hooksLogGroupName has a slash, so that it is not the one of another stack.
func hooksLogGroupName(d deployment) string { return logGroupName(d) + "/hooks" }

// hooksPermissions returns the permissions of the function that puts and removes hooks. policy-hooks.json is the result for a stack
// with a glob and tags.
func hooksPermissions(stack awscdk.Stack, d deployment) []awsiam.PolicyStatement {
	all := []awsiam.PolicyStatement{
		logStatement(stack, hooksLogGroupName(d)),
		// Find the groups and the hooks that they have. The Describe actions of Auto Scaling support no resources.
		allow("DescribeHooks", everything, "autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeLifecycleHooks"),
	}
	// IAM cannot limit this to one hook. The code looks for the name of the stack in a hook before it removes it.
	return append(all, onGroups(stack, d, "ManageHooks", "autoscaling:PutLifecycleHook", "autoscaling:DeleteLifecycleHook")...)
}
