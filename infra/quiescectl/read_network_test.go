package main

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	lambdatypes "github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/stretchr/testify/require"

	"quiesce/internal/doctor"
	"quiesce/test/parts/awstest"
)

func TestReadNetwork_FunctionInTheVPC_ReadsBothEnds(t *testing.T) {
	server, settings := awstest.Serve(t)
	(&world{T: t, aws: server}).addNetwork(awstest.Rule{Port: 443, Group: "sg-function"})
	vpc := "vpc-1"
	function := &lambdatypes.VpcConfigResponse{VpcId: &vpc, SubnetIds: []string{"subnet-a"}, SecurityGroupIds: []string{"sg-function"}}
	r := &reader{options: &options{}}
	require.NoError(t, r.readNetwork(t.Context(), settings, "prod", function))
	n := r.snapshot.Network
	require.True(t, n.Private)
	require.False(t, n.Public)
	require.Equal(t, "prod", n.Cluster)
	require.Empty(t, n.PublicCIDRs)
	require.Equal(t, "10.0.0.0/24", n.Function.Addresses[0].String())
	require.Equal(t, n.Function.Addresses, n.APIServer.Addresses)
	require.Equal(t, []doctor.NetworkRule{{From: 443, To: 443, Groups: []string{"sg-function"}}}, n.Groups["sg-cluster"].Ingress)
	require.Equal(t, maxPort, n.Groups["sg-function"].Egress[0].To)
	require.Equal(t, "0.0.0.0/0", n.Groups["sg-function"].Egress[0].CIDRs[0].String())

	function.SubnetIds = append(function.SubnetIds, "subnet-unknown")
	require.NoError(t, r.readNetwork(t.Context(), settings, "prod", function))
	require.Empty(t, r.snapshot.Network.Function.Addresses, "not all are known")

	server.Fail("ec2", "DescribeSecurityGroups", awstest.Fault{Code: 403, ErrorCode: "UnauthorizedOperation"})
	err := r.readNetwork(t.Context(), settings, "prod", function)
	require.ErrorContains(t, err, "describe security groups")
	r.unread("network of quiesce", err)
	require.Contains(t, r.snapshot.Unread[0].Fix, "ec2:DescribeSecurityGroups")
	require.ErrorContains(t, r.readNetwork(t.Context(), settings, "", function), "the cluster's name is not known")
}

func TestReadNetwork_PublicEndpoint_AddressesThatItAdmits(t *testing.T) {
	server, settings := awstest.Serve(t)
	server.AddCluster("prod", "https://127.0.0.1:6443", nil)
	r := &reader{options: &options{}}
	require.NoError(t, r.readNetwork(t.Context(), settings, "prod", nil))
	require.True(t, r.snapshot.Network.Public)
	require.False(t, r.snapshot.Network.Private)
	require.Equal(t, prefixes([]string{"0.0.0.0/0"}), r.snapshot.Network.PublicCIDRs)

	server.SetClusterNetwork("prod", awstest.Network{VPC: "vpc-1", PublicCIDRs: []string{"203.0.113.0/24", "198.51.100.7/32"}})
	require.NoError(t, r.readNetwork(t.Context(), settings, "prod", nil))
	require.True(t, r.snapshot.Network.Public)
	require.True(t, r.snapshot.Network.Private)
	require.Equal(t, prefixes([]string{"203.0.113.0/24", "198.51.100.7/32"}), r.snapshot.Network.PublicCIDRs)
}

func TestReadInstances_SeveralGroups_AllAreRead(t *testing.T) {
	server, settings := awstest.Serve(t)
	server.AddGroup("workers")
	server.AddInstance("workers", awstest.Instance{ID: "i-1", SecurityGroups: []string{"sg-1", "sg-2"}})
	p := pathsReader{ec2.NewFromConfig(settings), &doctor.Network{}}
	require.NoError(t, p.readInstances(t.Context(), []string{"i-1"}))
	require.Equal(t, map[string][]string{"i-1": {"sg-1", "sg-2"}}, p.InstanceGroups)
}
