package main

import (
	"fmt"
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

// newRole creates the execution role of the function. permissions has all its permissions, except the one that newManagedHooks adds.
func newRole(stack awscdk.Stack, d deployment, p parts) awsiam.Role {
	allowed := permissions(stack, d, p)
	role := newFunctionRole(stack, "Execution role of "+d.StackName(), allowed)
	checkSize(stack, role, allowed, putPermissions(stack, d))
	return role
}

// newFunctionRole creates the role of a function, with one policy.
func newFunctionRole(scope constructs.Construct, description string, allowed []awsiam.PolicyStatement) awsiam.Role {
	role := awsiam.NewRole(scope, jsii.String("Role"), &awsiam.RoleProps{
		Description: jsii.String(description),
		AssumedBy:   awsiam.NewServicePrincipal(jsii.String("lambda.amazonaws.com"), nil),
		InlinePolicies: &map[string]awsiam.PolicyDocument{
			"quiesce": awsiam.NewPolicyDocument(&awsiam.PolicyDocumentProps{Statements: &allowed}),
		},
	})
	suppress(role, "AwsSolutions-IAM5", "AWS requires each wildcard, or it stands for the UUID in the ARN of a group. "+
		"access.go gives the reason of each, and a test lists them all.")
	return role
}

// permissions returns the permissions of the function, each statement with its reason. policy.json is the result for a stack
// without options, and policy-options.json for one with all of them.
func permissions(stack awscdk.Stack, d deployment, p parts) []awsiam.PolicyStatement {
	return slices.Concat(
		[]awsiam.PolicyStatement{logStatement(stack, logGroupName(d))}, scalingStatements(stack, d), queueStatements(p.queues),
		clusterStatements(stack, d), secretStatements(stack, d), reportStatements(d, p), networkStatements(stack, d),
	)
}

// logStatement allows writing to a function's own log group. The stack creates the group, and Lambda names the streams.
func logStatement(stack awscdk.Stack, group string) awsiam.PolicyStatement {
	return allow("Log", on(arn(stack, "logs", "log-group:"+group+":log-stream:*")), "logs:CreateLogStream", "logs:PutLogEvents")
}

// scalingStatements allows what a drain and a sweep need of Auto Scaling and EC2.
func scalingStatements(stack awscdk.Stack, d deployment) []awsiam.PolicyStatement {
	all := []awsiam.PolicyStatement{
		// Verify what an event claims, learn the timeouts of the hook, and find instances whose event was lost, with the start of
		// their wait. Only DescribeWarmPool lists the instances of a warm pool. The Describe actions of Auto Scaling support no
		// resources: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2autoscaling.html.
		allow("DescribeAutoScaling", everything,
			"autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeAutoScalingInstances", "autoscaling:DescribeLifecycleHooks",
			"autoscaling:DescribeScalingActivities", "autoscaling:DescribeWarmPool"),
	}
	// Keep an instance of our groups waiting, and complete its lifecycle action.
	all = append(all, onGroups(stack, d, "LifecycleActions",
		"autoscaling:RecordLifecycleActionHeartbeat", "autoscaling:CompleteLifecycleAction")...)
	all = append(all,
		// Learn the name of a node. The Describe actions of EC2 support no resources:
		// https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html.
		allow("DescribeInstances", everything, "ec2:DescribeInstances"))
	if d.Drain.OnSpotInterruption {
		// Confirm a Spot interruption: anyone who may send to the queue can claim one.
		all = append(all, allow("DescribeSpotRequests", everything, "ec2:DescribeSpotInstanceRequests"))
	}
	if d.Drain.OnScheduledChange {
		// Learn which changes EC2 has scheduled, and terminate their instances before. The hook holds them then.
		all = append(all, allow("DescribeScheduledChanges", everything, "ec2:DescribeInstanceStatus"))
		all = append(all, onGroups(stack, d, "ReplaceInstances", "autoscaling:TerminateInstanceInAutoScalingGroup")...)
	}
	return all
}

// onGroups allows actions on the groups of quiesce.yaml: in one statement for names and globs, and one for each tag. A condition holds
// only if all its tags are there, and one of several tags is enough. The wildcard stands for the UUID of a group, which AWS assigns when
// it is created. Each action that changes a group knows the tags of the group:
// https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2autoscaling.html.
func onGroups(stack awscdk.Stack, d deployment, sid string, actions ...string) (all []awsiam.PolicyStatement) {
	group := func(name string) *string {
		return arn(stack, "autoscaling", "autoScalingGroup:*:autoScalingGroupName/"+name)
	}
	var named []*string
	for _, glob := range d.Groups.Names {
		named = append(named, group(iamPattern(glob)))
	}
	if len(named) > 0 {
		all = append(all, allow(sid, named, actions...))
	}
	for n, tag := range d.Groups.Tags {
		tagged := allow(fmt.Sprintf("%sByTag%d", sid, n+1), on(group("*")), actions...)
		tagged.AddCondition(jsii.String("StringEquals"), map[string]any{"autoscaling:ResourceTag/" + tag.Key: tag.Value})
		all = append(all, tagged)
	}
	return all
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
func secretStatements(stack awscdk.Stack, d deployment) []awsiam.PolicyStatement {
	secrets := secretARNs(d)
	if len(secrets) == 0 {
		return nil
	}
	all := []awsiam.PolicyStatement{allow("ConsoleLogins", *jsii.Strings(secrets...), "secretsmanager:GetSecretValue")}
	if len(d.Stack.KMSKeys) > 0 {
		all = append(all, decryptSecrets(stack, d.Stack.KMSKeys))
	}
	return all
}

// decryptSecrets allows Secrets Manager to decrypt secrets with a customer's keys in the name of the function. Secrets Manager
// does so with the caller's permissions (https://docs.aws.amazon.com/secretsmanager/latest/userguide/security-encryption.html).
// The condition keeps an attacker with the role's credentials from decrypting anything else that the same keys encrypt.
func decryptSecrets(stack awscdk.Stack, keys []string) awsiam.PolicyStatement {
	decrypt := allow("DecryptSecrets", *jsii.Strings(keys...), "kms:Decrypt")
	decrypt.AddCondition(jsii.String("StringEquals"), map[string]any{
		"kms:ViaService": "secretsmanager." + *stack.Region() + "." + *stack.UrlSuffix(),
	})
	return decrypt
}

// secretARNs returns the secrets that quiesce.yaml names, sorted, each once.
func secretARNs(d deployment) []string {
	var all []string
	for _, phase := range d.Phases {
		if phase.PGBouncer != nil && phase.PGBouncer.SecretARN != "" {
			all = append(all, phase.PGBouncer.SecretARN)
		}
		if phase.Postgres != nil && phase.Postgres.SecretARN != "" {
			all = append(all, phase.Postgres.SecretARN)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// reportStatements allows adding reports to the bucket, but neither reading, overwriting nor deleting them. S3 refuses a write
// with the header If-None-Match to a key that exists, and the condition requires that header
// (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes-enforce.html).
func reportStatements(d deployment, p parts) []awsiam.PolicyStatement {
	if p.reports == nil {
		return nil
	}
	put := allow("Reports", on(p.reports.ArnForObjects(jsii.String("*"))), "s3:PutObject")
	put.AddCondition(jsii.String("Null"), map[string]any{"s3:if-none-match": "false"})
	return []awsiam.PolicyStatement{put}
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
		allow("DescribeNetwork", everything, describe...), allow("AttachToNetwork", on(arn(stack, "ec2", "*/*")), attach...),
		allow("UseSubnets", subnets(stack, d), "ec2:CreateNetworkInterface"), deny,
	}
}

// subnets returns the ARNs of the function's subnets, whichever account owns them. A subnet that another account shares with
// this one has the account of its owner in its ARN
// (https://docs.aws.amazon.com/vpc/latest/userguide/vpc-sharing-share-subnet-working-with.html).
func subnets(stack awscdk.Stack, d deployment) (all []*string) {
	for _, id := range d.Stack.VPC.Subnets {
		all = append(all, stack.FormatArn(&awscdk.ArnComponents{
			Service: jsii.String("ec2"), Account: jsii.String("*"), Resource: jsii.String("subnet"), ResourceName: jsii.String(id),
		}))
	}
	return all
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
		case '$':
			pattern.WriteString("${$}") // ${...} would be a policy variable
		default:
			pattern.WriteByte(glob[i])
		}
	}
	return pattern.String()
}
