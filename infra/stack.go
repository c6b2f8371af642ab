package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awss3"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// newStack creates the stack of one deployment. Hooks are created last and deleted first, so that no instance waits on a hook
// without a handler. For all else the order does not matter.
func newStack(app constructs.Construct, d deployment) awscdk.Stack {
	stack := awscdk.NewStack(app, jsii.String(d.StackName()), &awscdk.StackProps{
		Description: jsii.String(description(d)),
		Env:         &awscdk.Environment{Account: orNil(d.Stack.Account), Region: orNil(d.Stack.Region)},
	})
	p := parts{queues: newQueues(stack, d), reports: newReports(stack, d), network: newNetwork(stack, d)}
	p.role = newRole(stack, d, p)
	p.function = newFunction(stack, d, p)
	p.mapping = newMapping(d, p)
	handlers := []constructs.IDependable{
		p.queues.events, p.queues.dlq, p.function.lambda, p.function.live, newClusterAccess(stack, d, p), p.mapping,
		newRules(stack, d, p), newSweep(stack, p), newCheck(stack, p),
	}
	if p.network != nil {
		handlers = append(handlers, p.network.all)
	}
	newHooks(stack, d, handlers)
	addOutputs(stack, d, p, newMonitoring(stack, d, p))
	newManagedHooks(stack, d, p) // last: it waits for all else
	return stack
}

func description(d deployment) string {
	return "quiesce: drains the nodes of EKS cluster " + d.Cluster + " before EC2 Auto Scaling terminates them"
}

// parts are the parts of a stack that other parts need.
type parts struct {
	queues   queues
	reports  awss3.Bucket // nil: reports are not archived
	network  *network     // nil: the function is in no VPC
	role     awsiam.Role
	function function
	mapping  awslambda.EventSourceMapping // hands the queue's messages to the function
}

// orNil returns the text, or nil if it is empty: then CDK uses its default.
func orNil(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
