package config_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
)

func TestStack_NotConfigured_HasDefaults(t *testing.T) {
	c := parse(t, least)
	require.Equal(t, config.Stack{MaxConcurrency: 100, ReservedConcurrency: true, LogRetentionDays: 90, AccessEntry: true}, c.Stack)
	require.Equal(t, "quiesce-prod", c.StackName())
	require.Equal(t, c.Stack, parse(t, least[:len(least)-1]+", stack: {vpc: , name: , kmsKeys: []}}").Stack)
}

func TestStack_EveryKey_IsRead(t *testing.T) {
	ca := base64.StdEncoding.EncodeToString(certificate(t))
	c := parse(t, `
cluster: staging
autoScalingGroups: [workers-a]
mode: drain
stack:
  name: drains
  account: "111122223333"
  region: us-gov-west-1
  maxConcurrency: 2
  reservedConcurrency: false
  logRetentionDays: 3653
  accessEntry: false
  clusterEndpoint: https://0123456789ABCDEF.gr7.us-gov-west-1.eks.amazonaws.com
  clusterCA: `+ca+`
  vpc: {id: vpc-0123abcd, subnets: [subnet-0123abcd, subnet-0123abce], clusterSecurityGroup: sg-0123abcd,
        podSecurityGroups: [sg-0123abce, sg-0123abcf], dualStack: true}
  kmsKeys: ["arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"]
  alarmTopic: arn:aws-us-gov:sns:us-gov-west-1:111122223333:on-call
  archiveReports: true
`)
	require.Equal(t, config.Stack{
		Name: "drains", Account: "111122223333", Region: "us-gov-west-1", MaxConcurrency: 2, LogRetentionDays: 3653,
		ClusterEndpoint: "https://0123456789ABCDEF.gr7.us-gov-west-1.eks.amazonaws.com", ClusterCA: ca,
		VPC: &config.VPC{
			ID: "vpc-0123abcd", Subnets: []string{"subnet-0123abcd", "subnet-0123abce"}, ClusterSecurityGroup: "sg-0123abcd",
			PodSecurityGroups: []string{"sg-0123abce", "sg-0123abcf"}, DualStack: true,
		},
		KMSKeys:    []string{"arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"},
		AlarmTopic: "arn:aws-us-gov:sns:us-gov-west-1:111122223333:on-call", ArchiveReports: true,
	}, c.Stack)
	require.Equal(t, "drains", c.StackName())
}

// CloudFormation and Lambda allow fewer names than EKS.
func TestStackName_NotConfigured_FollowsTheCluster(t *testing.T) {
	for cluster, want := range map[string]string{
		"prod_eu":                "quiesce-prod-eu",
		strings.Repeat("a", 100): "quiesce-" + strings.Repeat("a", 56),
	} {
		require.Equal(t, want, parse(t, "{cluster: "+cluster+", autoScalingGroups: [a], mode: drain}").StackName())
	}
}

// The second stack replaced the first one.
func TestCheckStackName_NameNotOfOneCluster_MustBeSet(t *testing.T) {
	long := strings.Repeat("a", 57)
	for cluster, want := range map[string]string{
		"prod-eu": "", long[1:]: "",
		"prod_eu": "stack.name: required for cluster prod_eu: another cluster could have the name quiesce-prod-eu too, " +
			"because an underscore is not allowed in it: set stack.name, and to that name if the stack exists",
		long: "stack.name: required for cluster " + long + ": another cluster could have the name quiesce-" + long[1:] + " too, " +
			"because it has at most 64 characters: set stack.name, and to that name if the stack exists",
	} {
		c := parse(t, "{cluster: "+cluster+", autoScalingGroups: [a], mode: drain}")
		if want == "" {
			require.NoError(t, c.CheckStackName(), cluster)
			continue
		}
		require.EqualError(t, c.CheckStackName(), want)
		c.Stack.Name = c.StackName()
		require.NoError(t, c.CheckStackName(), "it is set")
	}
}

func TestStack_Invalid_IsRefused(t *testing.T) {
	const vpc = "id: vpc-0123abcd, subnets: [subnet-0123abcd], clusterSecurityGroup: sg-0123abcd"
	const missing = "clusterCA: required with clusterEndpoint"
	const days = "[1 3 5 7 14 30 60 90 120 150 180 365 400 545 731 1096 1827 2192 2557 2922 3288 3653]"
	for stack, want := range map[string]string{
		"memory: 512":                      "memory: unknown key",
		"name: prod_eu":                    "name: not a stack name: prod_eu",
		"name: " + strings.Repeat("a", 65): "name: not a stack name: " + strings.Repeat("a", 65),
		"account: 111122223333":            "account: must be a string: 111122223333",
		"account: '12'":                    "account: not an account ID in quotes: 12",
		"region: eu":                       "region: not a region: eu",
		"maxConcurrency: 1":                "maxConcurrency: must be from 2 to 1000: 1",
		"logRetentionDays: 91":             "logRetentionDays: must be one of " + days + ": 91",
		"logRetentionDays: 0":              "logRetentionDays: must be from 1 to 3653: 0",
		"clusterEndpoint: 'https://a'":     missing,
		"clusterEndpoint: 'http://a'":      "clusterEndpoint: not an https URL with a host, such as https://ABC.gr7.eu-west-1.eks.amazonaws.com\n" + missing,
		"clusterCA: aGVsbG8=":              "clusterCA: no PEM certificate\nclusterEndpoint: required with clusterCA",
		"vpc: {}":                          "vpc.id: required\nvpc.subnets: required\nvpc.clusterSecurityGroup: required",
		"vpc: {" + vpc + ", subnet: a}":    "vpc.subnet: unknown key; did you mean subnets?",
		"vpc: {id: a, " + vpc[18:] + "}":   "vpc.id: not a VPC ID: a",
		"vpc: {" + vpc + ", podSecurityGroups: [sg-0123abce, sg-x, sg-0123abce]}": "vpc.podSecurityGroups[1]: not a security group ID: sg-x\n" +
			"vpc.podSecurityGroups[2]: duplicate: sg-0123abce",
		"vpc: {" + vpc + ", podSecurityGroups: sg-0123abce}":            "vpc.podSecurityGroups: must be a list",
		"kmsKeys: ['arn:aws:kms:eu-west-1:111122223333:alias/secrets']": "kmsKeys[0]: not a KMS key ARN: arn:aws:kms:eu-west-1:111122223333:alias/secrets",
		"kmsKeys: [1234abcd-12ab-34cd-56ef-1234567890ab]":               "kmsKeys[0]: not a KMS key ARN: 1234abcd-12ab-34cd-56ef-1234567890ab",
		"kmsKeys: ['arn:aws:kms:*:111122223333:key/*']":                 "kmsKeys[0]: not a KMS key ARN: arn:aws:kms:*:111122223333:key/*",
		"alarmTopic: 'arn:aws:sns:eu-west-1:111122223333:*'":            "alarmTopic: not a topic ARN: arn:aws:sns:eu-west-1:111122223333:*",
		"alarmTopic: on-call":                                           "alarmTopic: not a topic ARN: on-call",
		"archiveReports: bucket":                                        "archiveReports: must be true or false: bucket",
	} {
		var lines []string
		for line := range strings.SplitSeq(want, "\n") {
			lines = append(lines, "quiesce.yaml:1: stack."+line)
		}
		require.Equal(t, lines, errorsOf(t, least[:len(least)-1]+", stack: {"+stack+"}}"), stack)
	}
}
