package main

import (
	"fmt"
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"quiesce/internal/config"
)

const (
	// functionTimeout is Lambda's maximum. A longer drain continues in the next invocation.
	functionTimeout = 15 * time.Minute
	// functionMemory, in MB, sets the share of a CPU. The function itself needs 30 MB. Lambda gives one CPU for 1,769 MB
	// (https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html). Two drains each of a node with 134 pods took 4.4
	// and 6.4 s at 128 MB, 2.9 and 3.3 s at 256 MB, 2.5 and 3.1 s at 512 MB, 2.4 and 2.8 s at 1,024 MB, and 2.5 and 2.6 s at
	// 1,769 MB. More is not faster. Fifteen minutes cost half a cent.
	functionMemory = 512
	// heapShare, in percent of functionMemory, is Go's soft limit for memory (https://pkg.go.dev/runtime#hdr-Environment_Variables).
	// Near it, the collector runs more often. Without it, the heap may grow to twice of what is in use, and Lambda kills a process
	// that exceeds functionMemory: everything that it drains starts anew. The rest is for what Go does not count: the program
	// itself (30 MB), and Lambda's runtime.
	heapShare = 85
	// spareExecutions are reserved beside those for drains: for two overlapping sweeps, a check, and for people who ask for plans.
	spareExecutions = 5
	// asyncAge limits how long a throttled asynchronous invocation waits. After that time the next sweep is due.
	asyncAge = time.Minute
	// liveAlias is the alias that everything invokes. It can point to another version without a deployment.
	liveAlias = "live"
)

// function is the Lambda function, and the alias that everything invokes.
type function struct {
	lambda awslambda.Function
	live   awslambda.Alias
}

// newFunction publishes a version for each deployment with a change, and points the alias to it. Earlier versions stay, so that
// the alias can point back.
func newFunction(stack awscdk.Stack, d deployment, p parts) function {
	lambda := awslambda.NewFunction(stack, jsii.String("Function"), &awslambda.FunctionProps{
		FunctionName:                 jsii.String(d.StackName()),
		Description:                  jsii.String(description(d)),
		Runtime:                      awslambda.Runtime_PROVIDED_AL2023(),
		Architecture:                 awslambda.Architecture_ARM_64(),
		Handler:                      jsii.String("bootstrap"),
		Code:                         awslambda.Code_FromAsset(jsii.String(d.zip), nil),
		MemorySize:                   jsii.Number(functionMemory),
		Timeout:                      duration(functionTimeout),
		Role:                         p.role.WithoutPolicyUpdates(nil), // access.go has all permissions
		Environment:                  environment(d, p),
		LogGroup:                     newLogGroup(stack, d, logGroupName(d)),
		LoggingFormat:                awslambda.LoggingFormat_JSON,
		ReservedConcurrentExecutions: reserved(d),
		// A deployment that fails must not keep its version: Lambda publishes the same code and settings only once.
		CurrentVersionOptions: &awslambda.VersionOptions{RemovalPolicy: awscdk.RemovalPolicy_RETAIN_ON_UPDATE_OR_DELETE},
	})
	p.network.attach(lambda)
	live := awslambda.NewAlias(stack, jsii.String("Live"), &awslambda.AliasProps{
		AliasName: jsii.String(liveAlias),
		Version:   lambda.CurrentVersion(),
	})
	live.ConfigureAsyncInvoke(&awslambda.EventInvokeConfigOptions{
		RetryAttempts: jsii.Number(0), // the next sweep comes within a minute, and finds what another failed to do
		MaxEventAge:   duration(asyncAge),
	})
	return function{lambda: lambda, live: live}
}

func newLogGroup(scope constructs.Construct, d deployment, name string) awslogs.LogGroup {
	group := awslogs.NewLogGroup(scope, jsii.String("Logs"), &awslogs.LogGroupProps{
		LogGroupName:  jsii.String(name),
		Retention:     awslogs.RetentionDays_INFINITE, // CDK counts months, quiesce.yaml days: set below
		RemovalPolicy: awscdk.RemovalPolicy_DESTROY,   // a retained group would block the next deployment
	})
	group.Node().DefaultChild().(awslogs.CfnLogGroup).SetRetentionInDays(jsii.Number(d.Stack.LogRetentionDays))
	return group
}

func logGroupName(d deployment) string { return "/aws/lambda/" + d.StackName() }

// configText returns the variable with the configuration. Without a text, the zip has it.
func configText(text string) map[string]*string {
	if text == "" {
		return map[string]*string{}
	}
	return map[string]*string{"QUIESCE_CONFIG_TEXT": jsii.String(text)}
}

// environment returns the variables that internal/config and Go's runtime read.
func environment(d deployment, p parts) *map[string]*string {
	variables := configText(d.text)
	variables["QUIESCE_QUEUE_URL"] = p.queues.events.QueueUrl()
	variables["QUIESCE_DLQ_URL"] = p.queues.dlq.QueueUrl()
	variables["GOMEMLIMIT"] = jsii.String(fmt.Sprintf("%dMiB", functionMemory*heapShare/100))
	if d.version != "" {
		variables[versionVariable] = jsii.String(d.version)
	}
	if d.Stack.ClusterEndpoint != "" {
		variables["QUIESCE_CLUSTER_ENDPOINT"] = jsii.String(d.Stack.ClusterEndpoint)
		variables["QUIESCE_CLUSTER_CA"] = jsii.String(d.Stack.ClusterCA)
	}
	if p.reports != nil {
		variables["QUIESCE_REPORT_BUCKET"] = p.reports.BucketName()
	}
	return &variables
}

// reserved returns the reserved executions: with them, no other function can take the executions that drains need. It returns
// nil if quiesce.yaml reserves none, as for an account without executions to spare.
func reserved(d deployment) *float64 {
	if !d.Stack.ReservedConcurrency {
		return nil
	}
	return jsii.Number(reservedExecutions(d.Config))
}

func reservedExecutions(c config.Config) int { return c.Stack.MaxConcurrency + spareExecutions }
