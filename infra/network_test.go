package main

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVPC_Egress_ClusterConsolesAndHTTPS(t *testing.T) {
	require.NotContains(t, of(t, publicStack, "quiesce-prod").only(t, "AWS::Lambda::Function"), "VpcConfig")

	s := of(t, privateStack, "drains")
	require.Equal(t, object{
		"SubnetIds": []any{"subnet-0123abcd", "subnet-0123abce"}, "SecurityGroupIds": []any{"{EC2::SecurityGroup}.GroupId"},
		"Ipv6AllowedForDualStack": true,
	}, s.only(t, "AWS::Lambda::Function")["VpcConfig"])
	group := s.only(t, "AWS::EC2::SecurityGroup")
	require.Equal(t, "vpc-0123abcd", group["VpcId"])
	require.NotContains(t, group, "SecurityGroupIngress", "the function accepts no connections")
	require.Equal(t, []string{
		"0.0.0.0/0 443-443", "::/0 443-443", "sg-0123abcd 443-443", "sg-0123abcd 6432-6432", "sg-0123abcd 1-65535",
	}, portsOf(group["SecurityGroupEgress"].([]any)...))
}

// Without these rules, the cluster's security group rejects the function.
func TestVPC_Ingress_ClusterAdmitsTheFunction(t *testing.T) {
	var admitted []any
	for _, ingress := range of(t, privateStack, "drains").all("AWS::EC2::SecurityGroupIngress") {
		require.Equal(t, "{EC2::SecurityGroup}.GroupId", ingress["SourceSecurityGroupId"])
		admitted = append(admitted, ingress)
	}
	require.ElementsMatch(t, []string{"sg-0123abcd 443-443", "sg-0123abcd 6432-6432", "sg-0123abcd 1-65535"}, portsOf(admitted...))
}

func portsOf(rules ...any) (all []string) {
	for _, rule := range rules {
		rule := rule.(object)
		to := ""
		for _, key := range []string{"CidrIp", "CidrIpv6", "DestinationSecurityGroupId", "GroupId"} {
			if there, is := rule[key].(string); is {
				to = there
			}
		}
		all = append(all, fmt.Sprintf("%s %v-%v", to, rule["FromPort"], rule["ToPort"]))
	}
	return all
}

func TestEndpointsOutput_VPC_ListsEndpoints(t *testing.T) {
	require.NotContains(t, of(t, publicStack, "quiesce-prod").Outputs, "Endpoints")
	require.Equal(t, "autoscaling ec2 sqs secretsmanager s3", of(t, privateStack, "drains").Outputs["Endpoints"].Value)
}
