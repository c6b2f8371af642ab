package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
)

func TestVPC_Egress_ClusterConsolesHTTPSAndDNS(t *testing.T) {
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
		"0.0.0.0/0 443-443", "::/0 443-443", "0.0.0.0/0 udp 53-53", "::/0 udp 53-53", "0.0.0.0/0 53-53", "::/0 53-53",
		"sg-0123abcd 443-443",
		"sg-0123abcd 6432-6432", "sg-0123abce 6432-6432", "sg-0123abcf 6432-6432",
		"sg-0123abcd 1-65535", "sg-0123abce 1-65535", "sg-0123abcf 1-65535",
	}, portsOf(group["SecurityGroupEgress"].([]any)...))
}

// Without these rules, the security groups of the cluster, its nodes and its pods reject the function.
func TestVPC_Ingress_ClusterAndPodsAdmitTheFunction(t *testing.T) {
	var admitted []any
	for _, ingress := range of(t, privateStack, "drains").all("AWS::EC2::SecurityGroupIngress") {
		require.Equal(t, "{EC2::SecurityGroup}.GroupId", ingress["SourceSecurityGroupId"])
		admitted = append(admitted, ingress)
	}
	require.ElementsMatch(t, []string{
		"sg-0123abcd 443-443", "sg-0123abcd 6432-6432", "sg-0123abce 6432-6432", "sg-0123abcf 6432-6432",
		"sg-0123abcd 1-65535", "sg-0123abce 1-65535", "sg-0123abcf 1-65535",
	}, portsOf(admitted...))
}

// EC2 rejects a security group with any other character in a description, and with it the deployment
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_SecurityGroupRule.html).
func TestVPC_PhaseNames_DescriptionsHaveAllowedCharacters(t *testing.T) {
	s := of(t, privateStack, "drains")
	group := s.only(t, "AWS::EC2::SecurityGroup")
	descriptions := []any{group["GroupDescription"]}
	for _, rule := range group["SecurityGroupEgress"].([]any) {
		descriptions = append(descriptions, rule.(object)["Description"])
	}
	for _, rule := range s.all("AWS::EC2::SecurityGroupIngress") {
		descriptions = append(descriptions, rule["Description"])
	}
	for _, description := range descriptions {
		require.Regexp(t, `^[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{1,255}$`, description)
	}
	require.Contains(t, descriptions, "the consoles of read-only caches")
	require.Equal(t, "the consoles of Z_rich _db_ & co", *ruleText("the consoles of Zürich <db> & co"))
	require.Len(t, *ruleText(strings.Repeat("ü", 300)), 255)
}

// CloudFormation makes new resources before it deletes old ones, and EC2 refuses a rule that is there. So a rule keeps its logical ID, though
// it is named after another phase now.
func TestVPC_PhaseAddedInFront_RulesKeepTheirIDs(t *testing.T) {
	added := strings.Replace(private, "phases:\n", "phases:\n  - {name: new, match: {namespaces: [new]}, "+
		"escort: {pgbouncer: {port: 6432, secretRef: {namespace: new, name: pgbouncer-admin}}}}\n", 1)
	before := ingressIDs(of(t, privateStack, "drains"))
	require.Len(t, before, 7)
	after := of(t, func() (map[string]template, error) { return synthesize(added) }, "drains")
	require.Equal(t, before, ingressIDs(after))
	require.Contains(t, fmt.Sprint(after.all("AWS::EC2::SecurityGroupIngress")), "the consoles of new")
}

// ingressIDs returns the logical IDs of inbound rules, by what they allow.
func ingressIDs(s template) map[string]string {
	ids := map[string]string{}
	for id, r := range s.Resources {
		if r.Type == "AWS::EC2::SecurityGroupIngress" {
			ids[portsOf(r.Properties)[0]] = id
		}
	}
	return ids
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
		if rule["IpProtocol"] == "udp" {
			to += " udp"
		}
		all = append(all, fmt.Sprintf("%s %v-%v", to, rule["FromPort"], rule["ToPort"]))
	}
	return all
}

func TestEndpointsOutput_VPC_ListsEndpoints(t *testing.T) {
	require.NotContains(t, of(t, publicStack, "quiesce-prod").Outputs, "Endpoints")
	require.Equal(t, "autoscaling ec2 sqs secretsmanager s3", of(t, privateStack, "drains").Outputs["Endpoints"].Value)
}

// The members of databases say how they are at other ports than the consoles of poolers.
func TestClusterPorts_PhaseOfDatabases_ReachesItsMembers(t *testing.T) {
	n := &network{VPC: &config.VPC{ClusterSecurityGroup: "sg-a", PodSecurityGroups: []string{"sg-b"}}}
	for via, want := range map[config.ConnectVia]int{config.ViaPodIP: 2, config.ViaPortForward: 0} {
		var found []ports
		phase := config.Phase{Name: "databases", Postgres: &config.Postgres{Console: config.Console{ConnectVia: via}}}
		for _, p := range n.clusterPorts(deployment{Config: config.Config{Phases: []config.Phase{phase}}}) {
			if strings.HasPrefix(p.name, "the members of databases") {
				found = append(found, p)
				require.Equal(t, [2]int{8000, 8008}, [2]int{p.from, p.to})
			}
		}
		require.Len(t, found, want)
	}
}

// Poolers in front of databases have consoles whether or not a phase is about them. EC2 refuses two rules that say the same.
func TestClusterPorts_ConsolesOfDatabases_OncePerGroup(t *testing.T) {
	n := &network{VPC: &config.VPC{ClusterSecurityGroup: "sg-a", PodSecurityGroups: []string{"sg-b"}}}
	console := config.Console{ConnectVia: config.ViaPodIP, Port: 6432, SecretARN: "arn"}
	databases := config.Phase{Name: "databases", Postgres: &config.Postgres{Console: console}}
	poolers := config.Phase{Name: "poolers", PGBouncer: &config.PGBouncer{Console: console}}
	for _, phases := range [][]config.Phase{{databases}, {poolers}, {databases, poolers}} {
		var groups []string
		for _, p := range n.clusterPorts(deployment{Config: config.Config{Phases: phases}}) {
			if p.from == 6432 && p.to == 6432 {
				groups = append(groups, p.group)
			}
		}
		require.Equal(t, []string{"sg-a", "sg-b"}, groups)
	}
}
