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

// kubernetesGroup is who the function is in the cluster; rbac.yaml says what that group may do.
const kubernetesGroup = "quiesce"

// newClusterAccess makes the function's role a member of the group. Where aws-auth still lists who may enter, that is done there by
// hand, and this is the role itself.
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

// newRole is who the function is to AWS: it may do what rights lists, and nothing is ever added to that elsewhere.
func newRole(stack awscdk.Stack, d deployment, p parts) awsiam.Role {
	role := awsiam.NewRole(stack, jsii.String("Role"), &awsiam.RoleProps{
		Description: jsii.String("What " + d.StackName() + " may do"),
		AssumedBy:   awsiam.NewServicePrincipal(jsii.String("lambda.amazonaws.com"), nil),
		InlinePolicies: &map[string]awsiam.PolicyDocument{
			"quiesce": awsiam.NewPolicyDocument(&awsiam.PolicyDocumentProps{Statements: rights(stack, d, p)}),
		},
	})
	excuse(role, "AwsSolutions-IAM5", "Each asterisk is one that AWS forces, or the part of a group's ARN that AWS makes up; "+
		"access.go says which is which, and a test knows them all.")
	return role
}

// rights are the function's, each statement with its reason.
func rights(stack awscdk.Stack, d deployment, p parts) *[]awsiam.PolicyStatement {
	all := slices.Concat(
		logRights(stack, d), scalingRights(stack, d), queueRights(p.queues), clusterRights(stack, d), secretRights(d),
		reportRights(d, p), networkRights(stack, d),
	)
	return &all
}

// logRights: to write to its own log group, which it need not be able to make. Streams are named by Lambda.
func logRights(stack awscdk.Stack, d deployment) []awsiam.PolicyStatement {
	return []awsiam.PolicyStatement{
		allow("Log", on(arn(stack, "logs", "log-group:"+logGroupName(d)+":log-stream:*")), "logs:CreateLogStream", "logs:PutLogEvents"),
	}
}

func scalingRights(stack awscdk.Stack, d deployment) []awsiam.PolicyStatement {
	var groups []*string
	for _, glob := range d.Groups {
		groups = append(groups, arn(stack, "autoscaling", "autoScalingGroup:*:autoScalingGroupName/"+iamPattern(glob)))
	}
	return []awsiam.PolicyStatement{
		// To verify what an event claims, to know the hook's clock, and to find instances whose event was lost, and since when they
		// wait. Auto Scaling has no resources for what only describes:
		// https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2autoscaling.html.
		allow("LookAtGroups", everything,
			"autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeAutoScalingInstances", "autoscaling:DescribeLifecycleHooks",
			"autoscaling:DescribeScalingActivities"),
		// To keep an instance of our groups waiting, and to let it go. The asterisk is the group's UUID, which nobody knows beforehand.
		allow("HoldAndLetGo", groups, "autoscaling:RecordLifecycleActionHeartbeat", "autoscaling:CompleteLifecycleAction"),
		// To know what a node is called. EC2 has no resources for what only describes:
		// https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html.
		allow("FindNodes", everything, "ec2:DescribeInstances"),
	}
}

func queueRights(q queues) []awsiam.PolicyStatement {
	return []awsiam.PolicyStatement{
		// To be given messages: the event source mapping acts as this role. To see whether any wait, to hide those of a drain under way,
		// and to make up for an event that was lost.
		allow("Events", on(q.work.QueueArn()), "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes",
			"sqs:ChangeMessageVisibility", "sqs:SendMessage"),
		// To put aside what can never be processed.
		allow("DeadLetters", on(q.dead.QueueArn()), "sqs:SendMessage"),
	}
}

// clusterRights: to learn the API server's address, unless quiesce.yaml tells it. What the function may do there is for Kubernetes to
// say.
func clusterRights(stack awscdk.Stack, d deployment) []awsiam.PolicyStatement {
	if d.Stack.ClusterEndpoint != "" {
		return nil
	}
	return []awsiam.PolicyStatement{allow("FindCluster", on(arn(stack, "eks", "cluster/"+d.Cluster)), "eks:DescribeCluster")}
}

// secretRights: to log in to poolers' consoles with the secrets that quiesce.yaml names, and no others.
func secretRights(d deployment) []awsiam.PolicyStatement {
	secrets := secretARNs(d)
	if len(secrets) == 0 {
		return nil
	}
	return []awsiam.PolicyStatement{allow("ConsoleLogins", *jsii.Strings(secrets...), "secretsmanager:GetSecretValue")}
}

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

// reportRights: to add reports, and neither to read nor to delete them.
func reportRights(d deployment, p parts) []awsiam.PolicyStatement {
	if p.reports == nil {
		return nil
	}
	return []awsiam.PolicyStatement{allow("Reports", on(p.reports.ArnForObjects(jsii.String("*"))), "s3:PutObject")}
}

// networkRights are Lambda's, which attaches the function to the VPC as this role. The function's own code is denied them, as AWS
// advises: https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html, which also says where it takes an asterisk.
func networkRights(stack awscdk.Stack, d deployment) []awsiam.PolicyStatement {
	if d.Stack.VPC == nil {
		return nil
	}
	look := []string{"ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"}
	change := []string{
		"ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses",
	}
	deny := allow("NetworkIsNotForTheCode", everything, slices.Concat(look, change)...)
	deny.SetEffect(awsiam.Effect_DENY)
	deny.AddCondition(jsii.String("ArnEquals"), map[string]any{
		"lambda:SourceFunctionArn": arn(stack, "lambda", "function:"+d.StackName()),
	})
	return []awsiam.PolicyStatement{
		allow("LookAtNetwork", everything, look...), allow("AttachToNetwork", on(arn(stack, "ec2", "*/*")), change...), deny,
	}
}

// everything is for actions that know no resources.
var everything = on(jsii.String("*"))

func on(resources ...*string) []*string { return resources }

func allow(sid string, resources []*string, actions ...string) awsiam.PolicyStatement {
	return awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Sid: jsii.String(sid), Actions: jsii.Strings(actions...), Resources: &resources,
	})
}

// arn is that of a resource of this account, in whatever partition and region that is.
func arn(stack awscdk.Stack, service, resource string) *string {
	return stack.FormatArn(&awscdk.ArnComponents{
		Service: jsii.String(service), Resource: jsii.String(resource), ArnFormat: awscdk.ArnFormat_NO_RESOURCE_NAME,
	})
}

// iamPattern is a glob as IAM understands it, which knows an asterisk and a question mark: a set of characters becomes any one.
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
