package awsdata

import (
	"encoding/json"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/need"
)

var resources = sync.OnceValues(ReadResources)

// requireData skips a test without the npm packages, which `make schemas` installs.
func requireData(t *testing.T) Resources {
	t.Helper()
	all, err := resources()
	need.Part(t, err)
	return all
}

func TestCheck_GoodResources_FindsNothing(t *testing.T) {
	require.Empty(t, found(t, `{
		"Queue": {"Type": "AWS::SQS::Queue", "Properties": {
			"QueueName": "a", "VisibilityTimeout": 900, "RedrivePolicy": {"maxReceiveCount": 3}, "Tags": [{"Key": "a", "Value": "b"}]}},
		"Bare": {"Type": "AWS::SQS::Queue"},
		"Policy": {"Type": "AWS::SQS::QueuePolicy", "Properties": {
			"Queues": [{"Ref": "Queue"}], "PolicyDocument": {"Resource": {"Fn::GetAtt": ["Queue", "Arn"]}}}},
		"Custom": {"Type": "Custom::Thing", "Properties": {"ServiceToken": "a", "ServiceTimeout": 60, "Anything": ["b"]}}}`))
}

func TestCheck_BadResource_FindsEachFault(t *testing.T) {
	for _, bad := range []struct{ resource, fault string }{
		{`{"Type": "Custom::Thing", "Properties": {"Anything": 1}}`, `R (Custom::Thing): required: ServiceToken`},
		{`{"Type": "Custom::Thing", "Properties": {"ServiceToken": "a", "ServiceTimeout": "60"}}`,
			`R (Custom::Thing).ServiceTimeout: not of type integer: 60`},
		{`{"Type": "AWS::SQS::Kueue"}`, `R: no resource type: AWS::SQS::Kueue`},
		{`{"Type": "AWS::SQS::Queue", "Properties": {"VisibilityTimeOut": 1}}`, `R (AWS::SQS::Queue): no property: VisibilityTimeOut`},
		{`{"Type": "AWS::SQS::Queue", "Properties": {"VisibilityTimeout": "1"}}`, `R (AWS::SQS::Queue).VisibilityTimeout: not of type integer: 1`},
		{`{"Type": "AWS::SQS::Queue", "Properties": {"VisibilityTimeout": 1.5}}`, `R (AWS::SQS::Queue).VisibilityTimeout: not of type integer: 1.5`},
		{`{"Type": "AWS::SQS::Queue", "Properties": {"SqsManagedSseEnabled": "true"}}`,
			`R (AWS::SQS::Queue).SqsManagedSseEnabled: not of type boolean: true`},
		{`{"Type": "AWS::SQS::Queue", "Properties": {"Tags": [{"Key": "a"}]}}`, `R (AWS::SQS::Queue).Tags[0]: required: Value`},
		{`{"Type": "AWS::SQS::QueuePolicy", "Properties": {"PolicyDocument": {}}}`, `R (AWS::SQS::QueuePolicy): required: Queues`},
		{`{"Type": "AWS::SQS::QueuePolicy", "Properties": {"PolicyDocument": {}, "Queues": {"Ref": "AWS::NoValue"}}}`,
			`R (AWS::SQS::QueuePolicy): required: Queues`},
		{`{"Type": "AWS::SQS::QueuePolicy", "Properties": {"PolicyDocument": {}, "Queues": "a"}}`,
			`R (AWS::SQS::QueuePolicy).Queues: not an array: a`},
		{`{"Type": "AWS::Lambda::Alias", "Properties": {"Name": "a", "FunctionVersion": "1", "FunctionName": {"Fn::GetAtt": ["R", "Arm"]}}}`,
			`R: R (AWS::Lambda::Alias) has no attribute: Arm`},
		{`{"Type": "AWS::AutoScaling::LifecycleHook", "Properties": {"AutoScalingGroupName": "a"}}`,
			`R (AWS::AutoScaling::LifecycleHook): required: LifecycleTransition`},
		{`{"Type": "AWS::EC2::SecurityGroup", "Properties": {"GroupDescription": "a", "SecurityGroupEgress": [{"FromPort": 443}]}}`,
			`R (AWS::EC2::SecurityGroup).SecurityGroupEgress[0]: required: IpProtocol`},
	} {
		require.Equal(t, []string{bad.fault}, found(t, `{"R": `+bad.resource+`}`))
	}
	require.NotEmpty(t, requireData(t).Check(map[string]any{}), "a template without resources is a mistake")
}

func found(t *testing.T, text string) []string {
	t.Helper()
	var template map[string]any
	require.NoError(t, json.Unmarshal([]byte(`{"Resources": `+text+`}`), &template))
	return requireData(t).Check(template)
}

func TestCheckStatements_EachFault_IsFound(t *testing.T) {
	requireData(t)
	queue, subnet := "arn:aws:sqs:eu-west-1:111122223333:a", "arn:aws:ec2:eu-west-1:*:subnet/subnet-1"
	group := "arn:aws:autoscaling:eu-west-1:111122223333:autoScalingGroup:*:autoScalingGroupName/*"
	for _, policy := range []struct {
		Statement
		fault string
	}{
		{Statement{Actions: []string{"sqs:SendMessage"}, Resources: []string{queue}}, ""},
		{Statement{Actions: []string{"sqs:Send"}, Resources: []string{queue}}, "sqs:Send: no such action"},
		{Statement{Actions: []string{"sqs:SendMessage"}, Resources: []string{"*"}}, "sqs:SendMessage: supports resources, so * is too much"},
		{Statement{Actions: []string{"sqs:SendMessage"}, Resources: []string{queue, subnet}},
			"sqs:SendMessage: not a resource of this action: " + subnet},
		{Statement{Actions: []string{"ec2:DescribeInstances"}, Resources: []string{"*"}}, ""},
		{Statement{Actions: []string{"ec2:DescribeInstances"}, Resources: []string{subnet}},
			"ec2:DescribeInstances: supports no resources, only *: " + subnet},
		{Statement{Actions: []string{"ec2:CreateNetworkInterface"}, Resources: []string{"arn:aws:ec2:eu-west-1:111122223333:*/*"}}, ""},
		{Statement{Actions: []string{"ec2:CreateNetworkInterface"}, Resources: []string{subnet}},
			"ec2:CreateNetworkInterface: needs a resource of type network-interface"},
		{Statement{Actions: []string{"s3:PutObject"}, Resources: []string{"arn:aws:s3:::bucket/*"}}, ""},
		{Statement{Actions: []string{"s3:PutObject"}, Resources: []string{"arn:aws:s3:::bucket"}},
			"s3:PutObject: not a resource of this action: arn:aws:s3:::bucket"},
		{Statement{Deny: true, Actions: []string{"sqs:*", "ec2:CreateNetworkInterface"}, Resources: []string{"*"}}, ""},
		{Statement{Actions: []string{"kms:Decrypt"}, Resources: []string{"arn:aws:kms:eu-west-1:111122223333:key/a"},
			Conditions: []string{"kms:ViaService", "aws:SourceAccount"}}, ""},
		{Statement{Actions: []string{"kms:Decrypt"}, Resources: []string{"arn:aws:kms:eu-west-1:111122223333:key/a"},
			Conditions: []string{"kms:Via"}}, "kms:Decrypt: does not know the condition key kms:Via"},
		{Statement{Actions: []string{"autoscaling:PutLifecycleHook"}, Resources: []string{group},
			Conditions: []string{"autoscaling:ResourceTag/k8s.io/cluster/prod"}}, ""},
		{Statement{Actions: []string{"autoscaling:PutLifecycleHook"}, Resources: []string{group},
			Conditions: []string{"autoscaling:ResourceTag/"}}, "autoscaling:PutLifecycleHook: does not know the condition key autoscaling:ResourceTag/"},
	} {
		found, err := CheckStatements([]Statement{policy.Statement})
		require.NoError(t, err)
		if policy.fault == "" {
			require.Empty(t, found)
			continue
		}
		require.Equal(t, []string{policy.fault}, found)
	}
}

func TestCheckStatements_UnknownService_IsAnError(t *testing.T) {
	requireData(t)
	_, err := CheckStatements([]Statement{{Actions: []string{"skws:SendMessage"}, Resources: []string{"*"}}})
	require.ErrorContains(t, err, "skws:SendMessage")
}
