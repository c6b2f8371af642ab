package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"quiesce/internal/config"
)

const https, dns = 443, 53

// network attaches the function to the VPC of its cluster. nil: the function stays outside.
type network struct {
	*config.VPC
	all   constructs.Construct
	group awsec2.CfnSecurityGroup
}

// newNetwork creates the function's security group. Rules in other groups admit it: in the cluster's to the API server. If escorts
// connect to pods directly, those of the cluster and of the pods admit it to the consoles.
func newNetwork(stack awscdk.Stack, d deployment) *network {
	if d.Stack.VPC == nil {
		return nil
	}
	n := &network{VPC: d.Stack.VPC, all: constructs.NewConstruct(stack, jsii.String("Network"))}
	n.group = awsec2.NewCfnSecurityGroup(n.all, jsii.String("Function"), &awsec2.CfnSecurityGroupProps{
		GroupDescription:    ruleText("Outbound access of " + d.StackName()),
		VpcId:               jsii.String(n.ID),
		SecurityGroupEgress: n.egress(d),
	})
	for _, p := range n.clusterPorts(d) {
		awsec2.NewCfnSecurityGroupIngress(n.all, jsii.String(p.id()), &awsec2.CfnSecurityGroupIngressProps{
			GroupId: jsii.String(p.group), SourceSecurityGroupId: n.group.AttrGroupId(),
			IpProtocol: jsii.String("tcp"), FromPort: jsii.Number(p.from), ToPort: jsii.Number(p.to),
			Description: ruleText(d.StackName() + " to " + p.name),
		})
	}
	return n
}

// egress returns the outbound rules: HTTPS and DNS to any address, and the ports of the cluster.
func (n *network) egress(d deployment) []any {
	rules := n.everywhere("tcp", https, "AWS APIs")
	// No rule is needed for the DNS server of AWS. With DHCP options of its own, a VPC can have other servers, anywhere. TCP is for long
	// answers (https://docs.aws.amazon.com/vpc/latest/userguide/VPC_DHCP_Options.html).
	rules = append(rules, n.everywhere("udp", dns, "DNS servers")...)
	rules = append(rules, n.everywhere("tcp", dns, "DNS servers")...)
	for _, p := range n.clusterPorts(d) {
		rules = append(rules, &awsec2.CfnSecurityGroup_EgressProperty{
			DestinationSecurityGroupId: jsii.String(p.group),
			IpProtocol:                 jsii.String("tcp"), FromPort: jsii.Number(p.from), ToPort: jsii.Number(p.to),
			Description: ruleText(p.name),
		})
	}
	return rules
}

// everywhere returns the outbound rules for one port of any address, of each version of IP that the function has.
func (n *network) everywhere(protocol string, port float64, description string) []any {
	rules := []any{&awsec2.CfnSecurityGroup_EgressProperty{
		CidrIp: jsii.String("0.0.0.0/0"), IpProtocol: jsii.String(protocol), FromPort: &port, ToPort: &port, Description: jsii.String(description),
	}}
	if n.DualStack {
		rules = append(rules, &awsec2.CfnSecurityGroup_EgressProperty{
			CidrIpv6: jsii.String("::/0"), IpProtocol: jsii.String(protocol), FromPort: &port, ToPort: &port, Description: jsii.String(description),
		})
	}
	return rules
}

// ports is a range of ports that the function connects to behind a security group.
type ports struct {
	name, group string
	from, to    int
}

// id returns what makes the rule different from others. A rule that kept its ports but not its ID would be made twice in an update, and
// EC2 refuses that.
func (p ports) id() string { return fmt.Sprintf("Ports %d to %d of %s", p.from, p.to, p.group) }

// clusterPorts returns the ports of the API server and of consoles that the function connects to directly. Without a port in
// quiesce.yaml, a console has the container port of its pod, which can be any. Its pod has the security group of the cluster,
// of its node, or one of its own, which only stack.vpc.podSecurityGroups names.
func (n *network) clusterPorts(d deployment) []ports {
	all := []ports{{"the API server", n.ClusterSecurityGroup, https, https}}
	for _, phase := range d.Phases {
		if phase.Postgres != nil && phase.Postgres.ConnectVia == config.ViaPodIP {
			all = n.withPodPorts(all, "the members of "+phase.Name, cnpgPort, patroniPort)
		}
		console := phase.EscortConsole()
		if console == nil || console.ConnectVia != config.ViaPodIP || console.Secret == nil && console.SecretARN == "" {
			continue
		}
		from, to := 1, 65535
		if console.Port != 0 {
			from, to = console.Port, console.Port
		}
		all = n.withPodPorts(all, "the consoles of "+phase.Name, from, to)
	}
	return withoutRepeats(all)
}

// withoutRepeats returns the ranges, each once per security group: two phases may have one console, and EC2 refuses a second rule that says
// the same.
func withoutRepeats(all []ports) (once []ports) {
	for _, p := range all {
		same := func(other ports) bool { return other.group == p.group && other.from == p.from && other.to == p.to }
		if !slices.ContainsFunc(once, same) {
			once = append(once, p)
		}
	}
	return once
}

// cnpgPort and patroniPort are where the members of databases say how they are: CloudNativePG's instances and Patroni, by default.
const cnpgPort, patroniPort = 8000, 8008

// withPodPorts adds ports of pods.
func (n *network) withPodPorts(all []ports, name string, from, to int) []ports {
	all = append(all, ports{name, n.ClusterSecurityGroup, from, to})
	for _, group := range n.PodSecurityGroups {
		all = append(all, ports{name + " behind " + group, group, from, to})
	}
	return all
}

// ruleTextMax is the limit of the description of a rule
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_SecurityGroupRule.html).
const ruleTextMax = 255

// ruleText returns a description of a security group or of a rule. EC2 allows few characters there.
func ruleText(text string) *string {
	allowed := func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(" ._-:/()#,@[]+=&;{}!$*", r) {
			return r
		}
		return '_'
	}
	text = strings.Map(allowed, text)
	return jsii.String(text[:min(len(text), ruleTextMax)])
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
