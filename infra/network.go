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

// network attaches the function to the VPC of its cluster. nil: the function stays outside.
type network struct {
	*config.VPC
	all   constructs.Construct
	group awsec2.CfnSecurityGroup
}

// newNetwork creates the security group of the function, and rules in the cluster's security group that admit it: to the API
// server and, where escorts connect to pods directly, to the poolers' consoles. Pods with security groups of their own need
// such a rule there.
func newNetwork(stack awscdk.Stack, d deployment) *network {
	if d.Stack.VPC == nil {
		return nil
	}
	n := &network{VPC: d.Stack.VPC, all: constructs.NewConstruct(stack, jsii.String("Network"))}
	n.group = awsec2.NewCfnSecurityGroup(n.all, jsii.String("Function"), &awsec2.CfnSecurityGroupProps{
		GroupDescription:    jsii.String("Outbound access of " + d.StackName()),
		VpcId:               jsii.String(n.ID),
		SecurityGroupEgress: n.egress(d),
	})
	for _, p := range clusterPorts(d) {
		awsec2.NewCfnSecurityGroupIngress(n.all, jsii.String(p.name), &awsec2.CfnSecurityGroupIngressProps{
			GroupId: jsii.String(n.ClusterSecurityGroup), SourceSecurityGroupId: n.group.AttrGroupId(),
			IpProtocol: jsii.String("tcp"), FromPort: jsii.Number(p.from), ToPort: jsii.Number(p.to),
			Description: jsii.String(d.StackName() + " to " + p.name),
		})
	}
	return n
}

// egress returns the outbound rules: HTTPS to any address, for the AWS APIs, and the ports of the cluster.
func (n *network) egress(d deployment) []any {
	rules := []any{&awsec2.CfnSecurityGroup_EgressProperty{
		CidrIp: jsii.String("0.0.0.0/0"), IpProtocol: jsii.String("tcp"), FromPort: jsii.Number(https), ToPort: jsii.Number(https),
		Description: jsii.String("AWS APIs"),
	}}
	if n.DualStack {
		rules = append(rules, &awsec2.CfnSecurityGroup_EgressProperty{
			CidrIpv6: jsii.String("::/0"), IpProtocol: jsii.String("tcp"), FromPort: jsii.Number(https), ToPort: jsii.Number(https),
			Description: jsii.String("AWS APIs"),
		})
	}
	for _, p := range clusterPorts(d) {
		rules = append(rules, &awsec2.CfnSecurityGroup_EgressProperty{
			DestinationSecurityGroupId: jsii.String(n.ClusterSecurityGroup),
			IpProtocol:                 jsii.String("tcp"), FromPort: jsii.Number(p.from), ToPort: jsii.Number(p.to),
			Description: jsii.String(p.name),
		})
	}
	return rules
}

// ports is a range of ports that the function connects to behind the cluster's security group.
type ports struct {
	name     string
	from, to int
}

// clusterPorts returns the ports of the API server and of consoles that the function connects to directly. Without a port in
// quiesce.yaml, a console has the container port of its pod, which can be any.
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

// attach attaches the function to the VPC. CDK's own construct would look the VPC up, which needs the account at synth.
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

// endpoints returns the AWS services that the code calls, as the names of VPC endpoints. Subnets without a route to the internet
// need one for each. Lambda itself sends logs and receives messages.
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
