package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// statement is one statement of the function's policy.
type statement struct {
	sid, effect string
	actions     []any
	resources   []any
}

// A stolen role has exactly these permissions. policy.json is for a stack without options. policy-options.json is for one with
// vpc, secretArn, archiveReports and clusterEndpoint, where DescribeCluster is not needed. policy-hooks.json is for the function that
// manages hooks. All have placeholders for what only AWS knows: none is a policy to attach.
func TestPolicy_EachKindOfStack_EqualsItsJSON(t *testing.T) {
	for file, got := range map[string]any{
		"policy.json":         policyOf(t, of(t, publicStack, "quiesce-prod")),
		"policy-options.json": policyOf(t, of(t, privateStack, "drains")),
		"policy-hooks.json":   hooksPolicy(t),
	} {
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		policy, err := json.Marshal(got)
		require.NoError(t, err)
		require.JSONEq(t, string(want), string(policy), file)
	}
}

func TestPolicy_SecretsAndReportsConfigured_AllowsThem(t *testing.T) {
	statements := statementsIn(t, of(t, privateStack, "drains"))
	require.Contains(t, statements, statement{"ConsoleLogins", "Allow", list("secretsmanager:GetSecretValue"),
		list("arn:aws-us-gov:secretsmanager:us-gov-west-1:111122223333:secret:pgbouncer-admin-a1b2c3")})
	require.Contains(t, statements, statement{"DecryptSecrets", "Allow", list("kms:Decrypt"),
		list("arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab")})
	require.Contains(t, statements, statement{"Reports", "Allow", list("s3:PutObject"), list("{S3::Bucket}.Arn/*")})
	for _, s := range statements {
		require.NotEqual(t, "DescribeCluster", s.sid, "the file has the endpoint of the cluster")
	}
}

// The key may encrypt more than secrets.
func TestPolicy_KMSKey_DecryptsForSecretsManagerOnly(t *testing.T) {
	require.Equal(t, object{"StringEquals": object{"kms:ViaService": "secretsmanager.us-gov-west-1.<URLSuffix>"}},
		of(t, privateStack, "drains").statement(t, "DecryptSecrets")["Condition"])
}

// An attacker with the role's credentials must not change what was reported.
func TestPolicy_Reports_CannotBeOverwritten(t *testing.T) {
	require.Equal(t, object{"Null": object{"s3:if-none-match": "false"}}, of(t, privateStack, "drains").statement(t, "Reports")["Condition"])
}

// Only a function that gets Spot interruptions confirms them.
func TestPolicy_SpotInterruptions_ReadsSpotRequests(t *testing.T) {
	require.Equal(t, list("ec2:DescribeSpotInstanceRequests"),
		toList(of(t, privateStack, "drains").statement(t, "DescribeSpotRequests")["Action"]))
	require.NotContains(t, of(t, publicStack, "quiesce-prod").text, "ec2:DescribeSpotInstanceRequests")
}

// Only a function that replaces instances can terminate any, and only of the groups that the file names.
func TestPolicy_ScheduledChanges_TerminatesInOurGroupsOnly(t *testing.T) {
	private, public := of(t, privateStack, "drains"), of(t, publicStack, "quiesce-prod")
	require.Equal(t, list("autoscaling:TerminateInstanceInAutoScalingGroup"), toList(private.statement(t, "ReplaceInstances")["Action"]))
	require.Equal(t, private.statement(t, "LifecycleActions")["Resource"], private.statement(t, "ReplaceInstances")["Resource"])
	require.NotContains(t, public.text, "autoscaling:TerminateInstanceInAutoScalingGroup")
	require.NotContains(t, public.text, "ec2:DescribeInstanceStatus")
}

// The ARN of a shared subnet has the account that owns it, not the one that uses it.
func TestPolicy_SharedSubnet_AllowsNetworkInterface(t *testing.T) {
	s := of(t, privateStack, "drains").statement(t, "UseSubnets")
	require.Equal(t, list("ec2:CreateNetworkInterface"), toList(s["Action"]))
	require.Equal(t, list("arn:<Partition>:ec2:us-gov-west-1:*:subnet/subnet-0123abcd",
		"arn:<Partition>:ec2:us-gov-west-1:*:subnet/subnet-0123abce"), toList(s["Resource"]))
}

// Lambda attaches the function to the VPC with its role. The function's own code needs no network interfaces.
func TestPolicy_VPC_DeniesNetworkToFunctionCode(t *testing.T) {
	s := of(t, privateStack, "drains")
	describe := list("ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets")
	attach := list(
		"ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses",
	)
	statements := statementsIn(t, s)
	require.Equal(t, []statement{
		{"DescribeNetwork", "Allow", describe, list("*")},
		{"AttachToNetwork", "Allow", attach, list("arn:<Partition>:ec2:us-gov-west-1:111122223333:*/*")},
		{"UseSubnets", "Allow", list("ec2:CreateNetworkInterface"), list("arn:<Partition>:ec2:us-gov-west-1:*:subnet/subnet-0123abcd",
			"arn:<Partition>:ec2:us-gov-west-1:*:subnet/subnet-0123abce")},
		{"DenyNetworkToFunctionCode", "Deny", append(describe, attach...), list("*")},
	}, statements[len(statements)-4:])
	raw := statementsOf(policyOf(t, s))
	require.Equal(t, object{"ArnEquals": object{
		"lambda:SourceFunctionArn": "arn:<Partition>:lambda:us-gov-west-1:111122223333:function:drains",
	}}, raw[len(raw)-1]["Condition"])
}

func TestRole_OnlyLambdaCanAssumeIt(t *testing.T) {
	s := of(t, publicStack, "quiesce-prod")
	require.Equal(t, []object{{"Action": "sts:AssumeRole", "Effect": "Allow", "Principal": object{"Service": "lambda.amazonaws.com"}}},
		statementsOf(s.only(t, "AWS::IAM::Role")["AssumeRolePolicyDocument"]))
	require.NotContains(t, s.only(t, "AWS::IAM::Role"), "ManagedPolicyArns")
	require.Empty(t, s.all("AWS::IAM::Policy"), "all permissions are in one policy")
}

// IAM must allow every group that the function matches.
func TestIAMPattern_EachGlob_MatchesItsGroups(t *testing.T) {
	for glob, want := range map[string]string{
		"workers-a": "workers-a", "batch-*": "batch-*", "gpu-?": "gpu-?", "gpu-[ab]-*": "gpu-?-*", "gpu-[^a-c]": "gpu-?",
		`[\]a]x`: "?x", `odd\*`: "odd?", "a${aws:username}": "a${$}{aws:username}",
	} {
		_, err := path.Match(glob, "")
		require.NoError(t, err, glob)
		require.Equal(t, want, iamPattern(glob), glob)
	}
}

// IAM refuses a role with longer policies in the middle of a deployment.
func TestPolicy_ManyGroups_FitsIAMOrFailsTheSynth(t *testing.T) {
	requireNode(t)
	for n, fits := range map[int]bool{25: true, 45: false} {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprintf("eks-workers-%031d", i)) // 43 characters
		}
		stacks, err := synthesize(fmt.Sprintf("{cluster: prod, mode: drain, autoScalingGroups: [%s], lifecycle: {manageHooks: true}}",
			strings.Join(names, ", ")))
		if !fits {
			require.ErrorContains(t, err, "IAM allows 10240: name fewer groups in autoScalingGroups, and use a tag or a glob")
			continue
		}
		require.NoError(t, err)
		sizes := policySizes(t, stacks["quiesce-prod"])
		require.Len(t, sizes, 2)
		for _, size := range sizes {
			require.LessOrEqual(t, size, 10240)
			require.Greater(t, size, 25*len("arn:aws:autoscaling:eu-west-1:111122223333:autoScalingGroup:*:autoScalingGroupName/")+25*43)
		}
	}
}

// policySizes returns the characters of the inline policies of each role, by the description of the role.
func policySizes(t *testing.T, s template) map[any]int {
	t.Helper()
	real := strings.NewReplacer("<Partition>", "aws", "<Region>", "ap-southeast-1", "<AccountId>", "111122223333",
		"{SQS::Queue quiesce-prod}.Arn", "arn:aws:sqs:ap-southeast-1:111122223333:quiesce-prod",
		"{SQS::Queue quiesce-prod-dlq}.Arn", "arn:aws:sqs:ap-southeast-1:111122223333:quiesce-prod-dlq")
	size := func(document any) int {
		text, err := json.Marshal(document)
		require.NoError(t, err)
		return len(real.Replace(strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(string(text))))
	}
	sizes := map[any]int{}
	for _, role := range s.all("AWS::IAM::Role") {
		sizes[role["Description"]] = size(role["Policies"].([]any)[0].(object)["PolicyDocument"])
	}
	for _, policy := range s.all("AWS::IAM::RolePolicy") { // those are of the role that drains
		sizes["Execution role of quiesce-prod"] += size(policy["PolicyDocument"])
	}
	return sizes
}

// usedByLambda are the actions that the function's code does not call.
var usedByLambda = []string{
	// Lambda writes logs, receives messages and attaches the function to the VPC, all with the role of the function.
	"logs:CreateLogStream", "logs:PutLogEvents", "sqs:ReceiveMessage", "sqs:DeleteMessage",
	"ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets",
	"ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses",
	// Secrets Manager decrypts with the role of its caller.
	"kms:Decrypt",
}

// call matches the name of a request of the SDK.
var call = regexp.MustCompile(`\b(autoscaling|ec2|eks|s3|sqs|secretsmanager)\.([A-Z][A-Za-z]+)Input\b`)

// A missing permission breaks a drain. An unused one helps an attacker with the role's credentials.
func TestPolicy_AllowsExactlyWhatTheCodeCalls(t *testing.T) {
	wanted := map[string]bool{}
	for _, action := range usedByLambda {
		wanted[action] = true
	}
	sources, err := filepath.Glob("../internal/*/*.go")
	require.NoError(t, err)
	for _, path := range sources {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		source, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, found := range call.FindAllStringSubmatch(string(source), -1) {
			wanted[found[1]+":"+found[2]] = true
		}
	}

	granted := map[string]bool{}
	for _, s := range everyStatement(t) {
		for _, action := range s.actions {
			granted[action.(string)] = true
		}
	}
	require.Equal(t, wanted, granted)
}

func list(items ...any) []any { return items }

// everyStatement returns the statements of all roles that a configuration can have.
func everyStatement(t *testing.T) (all []statement) {
	t.Helper()
	for _, policy := range []any{
		policyOf(t, of(t, publicStack, "quiesce-prod")), policyOf(t, of(t, privateStack, "drains")),
		mainPolicy(t), putPolicy(t), hooksPolicy(t),
	} {
		all = append(all, statementsInPolicy(policy)...)
	}
	return all
}

func statementsIn(t *testing.T, s template) []statement {
	t.Helper()
	return statementsInPolicy(policyOf(t, s))
}

func statementsInPolicy(policy any) (statements []statement) {
	for _, raw := range statementsOf(policy) {
		statements = append(statements, statement{
			fmt.Sprint(raw["Sid"]), fmt.Sprint(raw["Effect"]), toList(raw["Action"]), toList(raw["Resource"]),
		})
	}
	return statements
}

// statement returns the statement of the function's policy that has an ID.
func (t template) statement(tt *testing.T, sid string) object {
	tt.Helper()
	for _, s := range statementsOf(policyOf(tt, t)) {
		if s["Sid"] == sid {
			return s
		}
	}
	require.Fail(tt, "no statement "+sid)
	return nil
}

func policyOf(t *testing.T, s template, role ...any) any {
	t.Helper()
	policies := s.only(t, "AWS::IAM::Role", role...)["Policies"].([]any)
	require.Len(t, policies, 1)
	return policies[0].(object)["PolicyDocument"]
}

// toList returns a list, which IAM may write as its only item.
func toList(value any) []any {
	if items, is := value.([]any); is {
		return items
	}
	return []any{value}
}
