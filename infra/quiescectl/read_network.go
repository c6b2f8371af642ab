package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	lambdatypes "github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"quiesce/internal/doctor"
)

// maxFilterValues is how many values EC2 takes in the filters of one request.
const maxFilterValues = 200

// maxPort is the last port of TCP.
const maxPort = 65535

// readNetwork reads what is on the paths from the function to the API server and to consoles.
func (r *reader) readNetwork(ctx context.Context, config aws.Config, cluster string, function *lambdatypes.VpcConfigResponse) error {
	if cluster == "" {
		return advisedError{errors.New("the cluster's name is not known"), "name it with --cluster"}
	}
	described, err := eks.NewFromConfig(config).DescribeCluster(ctx, &eks.DescribeClusterInput{Name: &cluster})
	if err != nil {
		return r.awsError(fmt.Errorf("describe cluster %s: %w", cluster, err), "eks:DescribeCluster")
	}
	if described.Cluster == nil || described.Cluster.ResourcesVpcConfig == nil {
		return nil // it is being made
	}
	if set := r.snapshot.Config.Stack.ClusterEndpoint; set != "" && set != aws.ToString(described.Cluster.Endpoint) {
		return nil // the function takes another way
	}
	own := described.Cluster.ResourcesVpcConfig
	n := &doctor.Network{
		Cluster: cluster, Public: own.EndpointPublicAccess, Private: own.EndpointPrivateAccess, ClusterVPC: aws.ToString(own.VpcId),
		PublicCIDRs: prefixes(own.PublicAccessCidrs),
	}
	if made := aws.ToString(own.ClusterSecurityGroupId); made != "" {
		n.APIServer.Groups = append(n.APIServer.Groups, made)
	}
	n.APIServer.Groups = append(n.APIServer.Groups, own.SecurityGroupIds...)
	if function != nil {
		n.FunctionVPC, n.Function.Groups = aws.ToString(function.VpcId), function.SecurityGroupIds
	}
	if n.FunctionVPC != "" && n.FunctionVPC == n.ClusterVPC {
		paths := pathsReader{ec2.NewFromConfig(config), n}
		if err := paths.read(ctx, function, own.SubnetIds, doctor.ConsoleInstances(r.snapshot)); err != nil {
			return r.awsError(err, "ec2:DescribeSecurityGroups, ec2:DescribeSubnets and ec2:DescribeInstances")
		}
	}
	r.snapshot.Network = n
	return nil
}

// pathsReader reads what EC2 says of a network.
type pathsReader struct {
	client *ec2.Client
	*doctor.Network
}

func (p pathsReader) read(ctx context.Context, function *lambdatypes.VpcConfigResponse, clusterSubnets, instances []string) (err error) {
	if p.APIServer.Addresses, err = p.addresses(ctx, clusterSubnets); err != nil {
		return err
	}
	if !aws.ToBool(function.Ipv6AllowedForDualStack) { // else it has other addresses too
		if p.Function.Addresses, err = p.addresses(ctx, function.SubnetIds); err != nil {
			return err
		}
	}
	if err := p.readInstances(ctx, instances); err != nil {
		return err
	}
	wanted := slices.Concat(p.APIServer.Groups, p.Function.Groups)
	for _, groups := range p.InstanceGroups {
		wanted = append(wanted, groups...)
	}
	slices.Sort(wanted)
	return p.readGroups(ctx, slices.Compact(wanted))
}

// addresses returns the addresses of subnets; none: not all are known.
func (p pathsReader) addresses(ctx context.Context, ids []string) (found []netip.Prefix, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	answer, err := p.client.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{Filters: filtered("subnet-id", ids)})
	if err != nil {
		return nil, fmt.Errorf("describe subnets: %w", err)
	}
	for _, subnet := range answer.Subnets {
		if prefix, err := netip.ParsePrefix(aws.ToString(subnet.CidrBlock)); err == nil {
			found = append(found, prefix)
		}
	}
	if len(found) < len(ids) {
		return nil, nil
	}
	return found, nil
}

// readInstances reads the security groups of all interfaces of instances: a pod may have its address on any of them.
func (p pathsReader) readInstances(ctx context.Context, ids []string) error {
	p.InstanceGroups = map[string][]string{}
	for chunk := range slices.Chunk(ids, maxFilterValues) {
		pages := ec2.NewDescribeInstancesPaginator(p.client, &ec2.DescribeInstancesInput{Filters: filtered("instance-id", chunk)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return fmt.Errorf("describe instances: %w", err)
			}
			for _, reservation := range page.Reservations {
				for _, i := range reservation.Instances {
					p.InstanceGroups[aws.ToString(i.InstanceId)] = groupsOf(i)
				}
			}
		}
	}
	return nil
}

func groupsOf(i ec2types.Instance) (ids []string) {
	for _, card := range i.NetworkInterfaces {
		for _, group := range card.Groups {
			if id := aws.ToString(group.GroupId); !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

func (p pathsReader) readGroups(ctx context.Context, ids []string) error {
	p.Groups = map[string]doctor.SecurityGroup{}
	for chunk := range slices.Chunk(ids, maxFilterValues) {
		pages := ec2.NewDescribeSecurityGroupsPaginator(p.client, &ec2.DescribeSecurityGroupsInput{Filters: filtered("group-id", chunk)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return fmt.Errorf("describe security groups: %w", err)
			}
			for _, g := range page.SecurityGroups {
				p.Groups[aws.ToString(g.GroupId)] = doctor.SecurityGroup{Ingress: tcpRules(g.IpPermissions), Egress: tcpRules(g.IpPermissionsEgress)}
			}
		}
	}
	return nil
}

func filtered(name string, values []string) []ec2types.Filter {
	return []ec2types.Filter{{Name: &name, Values: values}}
}

// tcpRules returns the rules that concern TCP. Its protocol is tcp or 6; -1 means all
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_IpPermission.html).
func tcpRules(permissions []ec2types.IpPermission) (rules []doctor.NetworkRule) {
	for _, x := range permissions {
		rule := doctor.NetworkRule{From: 0, To: maxPort, PrefixLists: len(x.PrefixListIds) > 0}
		switch protocol := aws.ToString(x.IpProtocol); {
		case protocol != "-1" && protocol != "tcp" && protocol != "6":
			continue
		case protocol != "-1" && x.FromPort != nil && x.ToPort != nil && *x.FromPort >= 0:
			rule.From, rule.To = int(*x.FromPort), int(*x.ToPort)
		}
		for _, pair := range x.UserIdGroupPairs {
			rule.Groups = append(rule.Groups, aws.ToString(pair.GroupId))
		}
		rule.CIDRs = prefixes(cidrs(x))
		rules = append(rules, rule)
	}
	return rules
}

// prefixes returns those of the texts that are blocks of addresses.
func prefixes(texts []string) (all []netip.Prefix) {
	for _, text := range texts {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			all = append(all, prefix)
		}
	}
	return all
}

func cidrs(x ec2types.IpPermission) (texts []string) {
	for _, r := range x.IpRanges {
		texts = append(texts, aws.ToString(r.CidrIp))
	}
	for _, r := range x.Ipv6Ranges {
		texts = append(texts, aws.ToString(r.CidrIpv6))
	}
	return texts
}
