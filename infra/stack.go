package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awss3"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// newStack is one deployment. It reads as what it is made of; the order matters for the hooks alone: they come last, and go first,
// so that no instance ever waits on a hook that nobody answers.
func newStack(app constructs.Construct, d deployment) awscdk.Stack {
	stack := awscdk.NewStack(app, jsii.String(d.StackName()), &awscdk.StackProps{
		Description: jsii.String(description(d)),
		Env:         &awscdk.Environment{Account: given(d.Stack.Account), Region: given(d.Stack.Region)},
	})
	p := parts{queues: newQueues(stack, d), reports: newReports(stack, d), network: newNetwork(stack, d)}
	p.role = newRole(stack, d, p)
	p.function = newFunction(stack, d, p)
	answering := []constructs.IDependable{
		p.queues.work, p.queues.dead, p.function.program, p.function.live, newClusterAccess(stack, d, p), newMapping(d, p),
		newEvents(stack, d, p), newSweep(stack, p),
	}
	if p.network != nil {
		answering = append(answering, p.network.all)
	}
	newHooks(stack, d, answering)
	tell(stack, d, p, newWatch(stack, d, p))
	return stack
}

func description(d deployment) string {
	return "quiesce: drains the nodes of EKS cluster " + d.Cluster + " before Auto Scaling takes them away"
}

// parts are what others of a stack's parts need.
type parts struct {
	queues   queues
	reports  awss3.Bucket // nil: reports are not kept
	network  *network     // nil: the function is not attached to one
	role     awsiam.Role
	function function
}

// given is a text, or nothing where CDK has a default of its own.
func given(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
