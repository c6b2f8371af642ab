package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/jsii-runtime-go"
)

// maxPolicies is how many characters all inline policies of a role may have, without white space
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html). IAM refuses more in the middle of a deployment.
const maxPolicies = 10240

// checkSize makes the synth fail if the inline policies of a role are too long for IAM. Each exact name of a group is one ARN per statement.
func checkSize(stack awscdk.Stack, role awsiam.Role, policies ...[]awsiam.PolicyStatement) {
	size := 0
	for _, statements := range policies {
		size += policySize(stack, statements)
	}
	if size > maxPolicies {
		awscdk.Annotations_Of(role).AddError(jsii.String(fmt.Sprintf("the policies of a role would have %d characters, and IAM allows %d: "+
			"name fewer groups in autoScalingGroups, and use a tag or a glob for the others", size, maxPolicies)))
	}
}

// policySize returns how many characters a policy has once CloudFormation has computed its values.
func policySize(stack awscdk.Stack, statements []awsiam.PolicyStatement) int {
	document := awsiam.NewPolicyDocument(&awsiam.PolicyDocumentProps{Statements: &statements})
	text, err := json.Marshal(computed(stack.Resolve(document)))
	if err != nil {
		panic(err) // a value from JSON
	}
	return len(text)
}

// The values that only CloudFormation knows, for their lengths.
var (
	pseudoParameters = map[string]string{
		"AWS::Partition": "aws", "AWS::Region": "ap-southeast-1", "AWS::AccountId": "111122223333", "AWS::URLSuffix": "amazonaws.com.cn",
	}
	// someARN is as long as the longest ARN that a stack names by a reference: that of a dead-letter queue.
	someARN = "arn:aws:sqs:ap-southeast-1:111122223333:" + strings.Repeat("q", 80)
)

// computed replaces the intrinsic functions of CloudFormation by values of their length.
func computed(value any) any {
	switch value := value.(type) {
	case []any:
		all := make([]any, len(value))
		for n, item := range value {
			all[n] = computed(item)
		}
		return all
	case map[string]any:
		if join, is := value["Fn::Join"].([]any); is {
			return joined(join)
		}
		if isFunction(value) {
			name, _ := value["Ref"].(string)
			return cmp.Or(pseudoParameters[name], someARN)
		}
		all := map[string]any{}
		for key, item := range value {
			all[key] = computed(item)
		}
		return all
	}
	return value
}

// joined is Fn::Join.
func joined(join []any) string {
	separator, _ := join[0].(string)
	parts, _ := join[1].([]any)
	var texts []string
	for _, part := range parts {
		texts = append(texts, fmt.Sprint(computed(part)))
	}
	return strings.Join(texts, separator)
}
