package main

import (
	"slices"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awseks"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// kubernetesGroup is the function's group in the cluster. rbac.yaml has the permissions of that group.
const kubernetesGroup = "quiesce"

// newClusterAccess creates the EKS access entry that makes the function's role a member of the group. Without an access entry,
// people add the role to aws-auth, and this returns the role itself.
func newClusterAccess(stack awscdk.Stack, d deployment, p parts) constructs.IDependable {
	if !d.Stack.AccessEntry {
		return p.role
	}
	return awseks.NewCfnAccessEntry(stack, jsii.String("ClusterAccess"), &awseks.CfnAccessEntryProps{
		ClusterName:      jsii.String(d.Cluster),
		PrincipalArn:     p.role.RoleArn(),
		KubernetesGroups: jsii.Strings(kubernetesGroup),
		Type:             jsii.String("STANDARD"),
	})
}

// newRole creates the execution role of the function. permissions has all its permissions: nothing else adds any.
func newRole(stack awscdk.Stack, d deployment, p parts) awsiam.Role {
	role := awsiam.NewRole(stack, jsii.String("Role"), &awsiam.RoleProps{
		Description: jsii.String("Execution role of " + d.StackName()),
		AssumedBy:   awsiam.NewServicePrincipal(jsii.String("lambda.amazonaws.com"), nil),
		InlinePolicies: &map[string]awsiam.PolicyDocument{
			"quiesce": awsiam.NewPolicyDocument(&awsiam.PolicyDocumentProps{Statements: permissions(stack, d, p)}),
		},
	})
	suppress(role, "AwsSolutions-IAM5", "AWS requires each wildcard, or it stands for the UUID in the ARN of a group. "+
		"access.go gives the reason of each, and a test lists them all.")
	return role
}

// permissions returns the permissions of the function, each statement with its reason. policy.json is the result for a stack
// without options, and policy-options.json for one with all of them.
func permissions(stack awscdk.Stack, d deployment, p parts) *[]awsiam.PolicyStatement {
	all := slices.Concat(
		logStatements(stack, d), scalingStatements(stack, d), queueStatements(p.queues), clusterStatements(stack, d),
		secretStatements(d), reportStatements(d, p), networkStatements(stack, d),
	)
	return &all
}

// logStatements allows writing to the function's own log group. The stack creates the group, and Lambda names the streams.
func logStatements(stack awscdk.Stack, d deployment) []awsiam.PolicyStatement {
	return []awsiam.PolicyStatement{
		allow("Log", on(arn(stack, "logs", "log-group:"+logGroupName(d)+":log-stream:*")), "logs:CreateLogStream", "logs:PutLogEvents"),
	}
}

// scalingStatements allows what a drain and a sweep need of Auto Scaling and EC2.
func scalingStatements(stack awscdk.Stack, d deployment) []awsiam.PolicyStatement {
	var groups []*string
	for _, glob := range d.Groups {
		groups = append(groups, arn(stack, "autoscaling", "autoScalingGroup:*:autoScalingGroupName/"+iamPattern(glob)))
	}
	return []awsiam.PolicyStatement{
		// Verify what an event claims, learn the timeouts of the hook, and find instances whose event was lost, with the start of
		// their wait. The Describe actions of Auto Scaling support no resources:
		// https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2autoscaling.html.
		allow("DescribeAutoScaling", everything,
			"autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeAutoScalingInstances", "autoscaling:DescribeLifecycleHooks",
			"autoscaling:DescribeScalingActivities"),
		// Keep an instance of our groups waiting, and complete its lifecycle action. The wildcard stands for the UUID of the group,
		// which AWS assigns when it is created.
		allow("LifecycleActions", groups, "autoscaling:RecordLifecycleActionHeartbeat", "autoscaling:CompleteLifecycleAction"),
		// Learn the name of a node. The Describe actions of EC2 support no resources:
		// https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html.
		allow("DescribeInstances", everything, "ec2:DescribeInstances"),
	}
}

// queueStatements allows what the function and its event source mapping do with the queues.
func queueStatements(q queues) []awsiam.PolicyStatement {
	return []awsiam.PolicyStatement{
		// Receive and delete messages: the event source mapping uses this role. Count them, hide those of running drains, and send
		// lost events again.
		allow("Events", on(q.events.QueueArn()), "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes",
			"sqs:ChangeMessageVisibility", "sqs:SendMessage"),
		// Send malformed events to the dead-letter queue.
		allow("DeadLetterQueue", on(q.dlq.QueueArn()), "sqs:SendMessage"),
	}
}

// clusterStatements allows asking for the API server's address, unless quiesce.yaml has it. RBAC decides what the function may
// do there.
func clusterStatements(stack awscdk.Stack, d deployment) []awsiam.PolicyStatement {
	if d.Stack.ClusterEndpoint != "" {
		return nil
	}
	return []awsiam.PolicyStatement{allow("DescribeCluster", on(arn(stack, "eks", "cluster/"+d.Cluster)), "eks:DescribeCluster")}
}

// secretStatements allows reading the secrets that quiesce.yaml names, and no others: the credentials of poolers' consoles.
func secretStatements(d deployment) []awsiam.PolicyStatement {
	secrets := secretARNs(d)
	if len(secrets) == 0 {
		return nil
	}
	return []awsiam.PolicyStatement{allow("ConsoleLogins", *jsii.Strings(secrets...), "secretsmanager:GetSecretValue")}
}

// secretARNs returns the secrets that quiesce.yaml names, sorted, each once.
func secretARNs(d deployment) []string {
	var all []string
	for _, phase := range d.Phases {
		if phase.PGBouncer != nil && phase.PGBouncer.SecretARN != "" {
			all = append(all, phase.PGBouncer.SecretARN)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// reportStatements allows adding reports to the bucket, but neither reading nor deleting them.
func reportStatements(d deployment, p parts) []awsiam.PolicyStatement {
	if p.reports == nil {
		return nil
	}
	return []awsiam.PolicyStatement{allow("Reports", on(p.reports.ArnForObjects(jsii.String("*"))), "s3:PutObject")}
}

// networkStatements allows Lambda to attach the function to the VPC with this role, and denies the same to the function's own
// code. AWS recommends that: https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html. The page also says which
// actions need a wildcard.
func networkStatements(stack awscdk.Stack, d deployment) []awsiam.PolicyStatement {
	if d.Stack.VPC == nil {
		return nil
	}
	describe := []string{"ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"}
	attach := []string{
		"ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses",
	}
	deny := allow("DenyNetworkToFunctionCode", everything, slices.Concat(describe, attach)...)
	deny.SetEffect(awsiam.Effect_DENY)
	deny.AddCondition(jsii.String("ArnEquals"), map[string]any{
		"lambda:SourceFunctionArn": arn(stack, "lambda", "function:"+d.StackName()),
	})
	return []awsiam.PolicyStatement{
		allow("DescribeNetwork", everything, describe...), allow("AttachToNetwork", on(arn(stack, "ec2", "*/*")), attach...), deny,
	}
}

// everything is the resource of actions that support no other.
var everything = on(jsii.String("*"))

func on(resources ...*string) []*string { return resources }

func allow(sid string, resources []*string, actions ...string) awsiam.PolicyStatement {
	return awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Sid: jsii.String(sid), Actions: jsii.Strings(actions...), Resources: &resources,
	})
}

// arn returns the ARN of a resource in the partition, region and account of the stack.
func arn(stack awscdk.Stack, service, resource string) *string {
	return stack.FormatArn(&awscdk.ArnComponents{
		Service: jsii.String(service), Resource: jsii.String(resource), ArnFormat: awscdk.ArnFormat_NO_RESOURCE_NAME,
	})
}

// iamPattern returns a glob in the syntax of IAM, which has only * and ?. A set of characters becomes a question mark.
func iamPattern(glob string) string {
	var pattern strings.Builder
	for i := 0; i < len(glob); i++ {
		switch glob[i] {
		case '[':
			for ; glob[i] != ']'; i++ {
				if glob[i] == '\\' {
					i++
				}
			}
			pattern.WriteByte('?')
		case '\\':
			i++
			pattern.WriteByte('?')
		default:
			pattern.WriteByte(glob[i])
		}
	}
	return pattern.String()
}
