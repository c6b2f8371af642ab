package main

import (
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/jsii-runtime-go"
)

const (
	// functionTimeout is Lambda's maximum. A drain that takes longer is handed over to the next invocation.
	functionTimeout = 15 * time.Minute
	// functionMemory buys processor time rather than memory, of which 30 MB were enough: Lambda gives a whole processor for 1,769 MB
	// (https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html). A node of 134 pods was drained within such a share of one,
	// twice each: in 4.4 and 6.4 s at 128 MB, 2.9 and 3.3 s at 256 MB, 2.5 and 3.1 s at 512 MB, 2.4 and 2.8 s at 1,024 MB, and 2.5 and
	// 2.6 s at 1,769 MB. More than this buys nothing; it costs half a cent for fifteen minutes.
	functionMemory = 512
	// spareExecutions are set aside beside those for drains: for two sweeps, should one take its time, and people who look at plans.
	spareExecutions = 5
	// asyncAge bounds how long an asynchronous invocation waits that was throttled: the next sweep is due by then.
	asyncAge = time.Minute
	// liveAlias is what everything invokes. What it points to can be changed without a deployment.
	liveAlias = "live"
)

// function is the program, and the alias by which it is invoked.
type function struct {
	program awslambda.Function
	live    awslambda.Alias
}

// newFunction publishes a version for each deployment that changes anything, and points the alias to it. Earlier versions stay, so
// that the alias can be pointed back.
func newFunction(stack awscdk.Stack, d deployment, p parts) function {
	made := awslambda.NewFunction(stack, jsii.String("Function"), &awslambda.FunctionProps{
		FunctionName:                 jsii.String(d.StackName()),
		Description:                  jsii.String(description(d)),
		Runtime:                      awslambda.Runtime_PROVIDED_AL2023(),
		Architecture:                 awslambda.Architecture_ARM_64(),
		Handler:                      jsii.String("bootstrap"),
		Code:                         awslambda.Code_FromAsset(jsii.String(d.zip), nil),
		MemorySize:                   jsii.Number(functionMemory),
		Timeout:                      lasting(functionTimeout),
		Role:                         p.role.WithoutPolicyUpdates(nil), // what it may do stands in one place: access.go
		Environment:                  environment(d, p),
		LogGroup:                     newLogGroup(stack, d),
		LoggingFormat:                awslambda.LoggingFormat_JSON,
		ReservedConcurrentExecutions: reserved(d),
		CurrentVersionOptions:        &awslambda.VersionOptions{RemovalPolicy: awscdk.RemovalPolicy_RETAIN},
	})
	p.network.attach(made)
	live := awslambda.NewAlias(stack, jsii.String("Live"), &awslambda.AliasProps{
		AliasName: jsii.String(liveAlias),
		Version:   made.CurrentVersion(),
	})
	live.ConfigureAsyncInvoke(&awslambda.EventInvokeConfigOptions{
		RetryAttempts: jsii.Number(0), // a sweep comes each minute, and whatever else failed it will find
		MaxEventAge:   lasting(asyncAge),
	})
	return function{program: made, live: live}
}

func newLogGroup(stack awscdk.Stack, d deployment) awslogs.LogGroup {
	group := awslogs.NewLogGroup(stack, jsii.String("Logs"), &awslogs.LogGroupProps{
		LogGroupName:  jsii.String(logGroupName(d)),
		Retention:     awslogs.RetentionDays_INFINITE, // its enumeration knows months, quiesce.yaml days
		RemovalPolicy: awscdk.RemovalPolicy_DESTROY,   // one that stayed would be in the way of the next deployment
	})
	group.Node().DefaultChild().(awslogs.CfnLogGroup).SetRetentionInDays(jsii.Number(d.Stack.LogRetentionDays))
	return group
}

func logGroupName(d deployment) string { return "/aws/lambda/" + d.StackName() }

// environment is what internal/config reads beside the file.
func environment(d deployment, p parts) *map[string]*string {
	variables := map[string]*string{
		"QUIESCE_QUEUE_URL": p.queues.work.QueueUrl(),
		"QUIESCE_DLQ_URL":   p.queues.dead.QueueUrl(),
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

// reserved sets executions aside, so that another function's rush never leaves nodes undrained. None are where the account has
// none to spare.
func reserved(d deployment) *float64 {
	if !d.Stack.ReservedConcurrency {
		return nil
	}
	return jsii.Number(d.Stack.MaxConcurrency + spareExecutions)
}
