package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"quiesce/internal/config"
)

const https = 443

// network is how the function reaches a cluster from inside its VPC; nil: it reaches it from outside.
type network struct {
	*config.VPC
	all   constructs.Construct
	group awsec2.CfnSecurityGroup
}

// newNetwork makes the function's security group, and lets it in where the cluster's own lets nobody in: to the API server and,
// where escorts speak to pods directly, to the poolers' consoles. Pods with security groups of their own must let it in themselves.
func newNetwork(stack awscdk.Stack, d deployment) *network {
	if d.Stack.VPC == nil {
		return nil
	}
	n := &network{VPC: d.Stack.VPC, all: constructs.NewConstruct(stack, jsii.String("Network"))}
	n.group = awsec2.NewCfnSecurityGroup(n.all, jsii.String("Function"), &awsec2.CfnSecurityGroupProps{
		GroupDescription:    jsii.String("What " + d.StackName() + " may reach"),
		VpcId:               jsii.String(n.ID),
		SecurityGroupEgress: n.ways(d),
	})
	for _, p := range clusterPorts(d) {
		awsec2.NewCfnSecurityGroupIngress(n.all, jsii.String(p.what), &awsec2.CfnSecurityGroupIngressProps{
			GroupId: jsii.String(n.ClusterSecurityGroup), SourceSecurityGroupId: n.group.AttrGroupId(),
			IpProtocol: jsii.String("tcp"), FromPort: jsii.Number(p.from), ToPort: jsii.Number(p.to),
			Description: jsii.String(d.StackName() + " to " + p.what),
		})
	}
	return n
}

// ways are what the function may reach: AWS's own APIs, wherever their addresses are, and the cluster.
func (n *network) ways(d deployment) []any {
	ways := []any{&awsec2.CfnSecurityGroup_EgressProperty{
		CidrIp: jsii.String("0.0.0.0/0"), IpProtocol: jsii.String("tcp"), FromPort: jsii.Number(https), ToPort: jsii.Number(https),
		Description: jsii.String("AWS APIs"),
	}}
	if n.DualStack {
		ways = append(ways, &awsec2.CfnSecurityGroup_EgressProperty{
			CidrIpv6: jsii.String("::/0"), IpProtocol: jsii.String("tcp"), FromPort: jsii.Number(https), ToPort: jsii.Number(https),
			Description: jsii.String("AWS APIs"),
		})
	}
	for _, p := range clusterPorts(d) {
		ways = append(ways, &awsec2.CfnSecurityGroup_EgressProperty{
			DestinationSecurityGroupId: jsii.String(n.ClusterSecurityGroup),
			IpProtocol:                 jsii.String("tcp"), FromPort: jsii.Number(p.from), ToPort: jsii.Number(p.to),
			Description: jsii.String(p.what),
		})
	}
	return ways
}

// ports are some that the function must reach behind the cluster's security group.
type ports struct {
	what     string
	from, to int
}

// clusterPorts are the API server's, and those of consoles that are spoken to without the API server between. One that
// quiesce.yaml does not tell is the pod's own, which can be any.
func clusterPorts(d deployment) []ports {
	all := []ports{{"the API server", https, https}}
	for _, phase := range d.Phases {
		console := phase.PGBouncer
		if console == nil || console.ConnectVia != config.ViaPodIP || console.Secret == nil && console.SecretARN == "" {
			continue
		}
		p := ports{"the consoles of " + phase.Name, 1, 65535}
		if console.Port != 0 {
			p.from, p.to = console.Port, console.Port
		}
		all = append(all, p)
	}
	return all
}

// attach attaches the function to the VPC. CDK's own way would look the VPC up, which needs the account at synth.
func (n *network) attach(f awslambda.Function) {
	if n == nil {
		return
	}
	f.Node().DefaultChild().(awslambda.CfnFunction).SetVpcConfig(&awslambda.CfnFunction_VpcConfigProperty{
		SubnetIds:               jsii.Strings(n.Subnets...),
		SecurityGroupIds:        &[]*string{n.group.AttrGroupId()},
		Ipv6AllowedForDualStack: jsii.Bool(n.DualStack),
	})
}

// endpoints are the AWS services that the code itself calls, as VPC endpoints are named. A VPC without a way out needs one for each.
// Logs, and messages on their way to the function, are Lambda's own business.
func endpoints(d deployment) []string {
	all := []string{"autoscaling", "ec2", "sqs"}
	if d.Stack.ClusterEndpoint == "" {
		all = append(all, "eks")
	}
	if len(secretARNs(d)) > 0 {
		all = append(all, "secretsmanager")
	}
	if d.Stack.ArchiveReports {
		all = append(all, "s3")
	}
	return all
}
