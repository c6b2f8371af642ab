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

// right is one statement of the function's policy.
type right struct {
	sid, effect string
	actions     []any
	resources   []any
}

// What the function may do is what somebody who steals its role may do. policy.json is what public gets, with a placeholder for
// what only AWS knows.
func TestTheFunctionMayDoWhatPolicyJSONSaysAndNothingElse(t *testing.T) {
	want, err := os.ReadFile("policy.json")
	require.NoError(t, err)
	got, err := json.Marshal(policyOf(t, of(t, publicStack, "quiesce-prod")))
	require.NoError(t, err)
	require.JSONEq(t, string(want), string(got))
}

func TestTheFunctionMayReadTheSecretsThatAreConfiguredAndAddReports(t *testing.T) {
	rights := rightsOf(t, of(t, privateStack, "drains"))
	require.Contains(t, rights, right{"ConsoleLogins", "Allow", list("secretsmanager:GetSecretValue"),
		list("arn:aws-us-gov:secretsmanager:us-gov-west-1:111122223333:secret:pgbouncer-a1b2c3")})
	require.Contains(t, rights, right{"Reports", "Allow", list("s3:PutObject"), list("{S3::Bucket}.Arn/*")})
	for _, r := range rights {
		require.NotEqual(t, "FindCluster", r.sid, "the file says where the cluster is")
	}
}

// Lambda attaches the function to the VPC in the name of its role. The function's own code has no business with network interfaces.
func TestOnlyLambdaItselfMayAttachToTheVPC(t *testing.T) {
	s := of(t, privateStack, "drains")
	look := list("ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets")
	change := list(
		"ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses",
	)
	rights := rightsOf(t, s)
	require.Equal(t, []right{
		{"LookAtNetwork", "Allow", look, list("*")},
		{"AttachToNetwork", "Allow", change, list("arn:<Partition>:ec2:us-gov-west-1:111122223333:*/*")},
		{"NetworkIsNotForTheCode", "Deny", append(look, change...), list("*")},
	}, rights[len(rights)-3:])
	statements := statementsOf(policyOf(t, s))
	require.Equal(t, object{"ArnEquals": object{
		"lambda:SourceFunctionArn": "arn:<Partition>:lambda:us-gov-west-1:111122223333:function:drains",
	}}, statements[len(statements)-1]["Condition"])
}

func TestOnlyLambdaMayBeTheFunction(t *testing.T) {
	s := of(t, publicStack, "quiesce-prod")
	require.Equal(t, []object{{"Action": "sts:AssumeRole", "Effect": "Allow", "Principal": object{"Service": "lambda.amazonaws.com"}}},
		statementsOf(s.only(t, "AWS::IAM::Role")["AssumeRolePolicyDocument"]))
	require.NotContains(t, s.only(t, "AWS::IAM::Role"), "ManagedPolicyArns")
	require.Empty(t, s.all("AWS::IAM::Policy"), "what it may do stands in one place")
}

// What a glob means to the function, IAM must allow.
func TestIAMAllowsEveryGroupThatAGlobMeans(t *testing.T) {
	for glob, want := range map[string]string{
		"workers-a": "workers-a", "batch-*": "batch-*", "gpu-?": "gpu-?", "gpu-[ab]-*": "gpu-?-*", "gpu-[^a-c]": "gpu-?",
		`[\]a]x`: "?x", `odd\*`: "odd?",
	} {
		_, err := path.Match(glob, "")
		require.NoError(t, err, glob)
		require.Equal(t, want, iamPattern(glob), glob)
	}
}

// unwritten are the actions that no line of the function's code asks for.
var unwritten = []string{
	// Lambda logs, takes messages out of the queue and attaches to the VPC, all in the name of the role.
	"logs:CreateLogStream", "logs:PutLogEvents", "sqs:ReceiveMessage", "sqs:DeleteMessage",
	"ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets",
	"ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses",
}

// call is how the SDK's requests are called.
var call = regexp.MustCompile(`\b(autoscaling|ec2|eks|s3|sqs|secretsmanager)\.([A-Z][A-Za-z]+)Input\b`)

// A right that is missing is noticed when a node is to be drained; one too many, when the role is stolen.
func TestTheFunctionMayDoWhatItsCodeAsksForAndNothingElse(t *testing.T) {
	wanted := map[string]bool{}
	for _, action := range unwritten {
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
	for _, r := range append(rightsOf(t, of(t, publicStack, "quiesce-prod")), rightsOf(t, of(t, privateStack, "drains"))...) {
		for _, action := range r.actions {
			granted[action.(string)] = true
		}
	}
	require.Equal(t, wanted, granted)
}

func list(items ...any) []any { return items }

func rightsOf(t *testing.T, s template) (rights []right) {
	t.Helper()
	for _, statement := range statementsOf(policyOf(t, s)) {
		rights = append(rights, right{
			fmt.Sprint(statement["Sid"]), fmt.Sprint(statement["Effect"]), several(statement["Action"]), several(statement["Resource"]),
		})
	}
	return rights
}

func policyOf(t *testing.T, s template) any {
	t.Helper()
	policies := s.only(t, "AWS::IAM::Role")["Policies"].([]any)
	require.Len(t, policies, 1)
	return policies[0].(object)["PolicyDocument"]
}

// several is a list that is written as its one item where it has no more.
func several(value any) []any {
	if items, is := value.([]any); is {
		return items
	}
	return []any{value}
}
