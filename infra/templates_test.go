package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/test/parts/awsdata"
	"quiesce/test/parts/need"
)

var shippedStack = sync.OnceValues(func() (map[string]template, error) {
	text, err := os.ReadFile(config.FileName)
	if err != nil {
		return nil, err
	}
	return synthesize(string(text))
})

// everyTemplate returns the templates of the shipped file, of a stack without options, of one with all of them, and of one that
// manages hooks.
func everyTemplate(t *testing.T) map[string]template {
	t.Helper()
	return map[string]template{
		"shipped": of(t, shippedStack, "quiesce-prod"), "public": of(t, publicStack, "quiesce-prod"), "private": of(t, privateStack, "drains"),
		"managed": of(t, managedStack, "managed"), "release": releasedStack(t),
	}
}

// CDK checks few of the properties that it writes. CloudFormation finds the rest in the middle of a deployment.
func TestTemplate_Resources_FitCloudFormation(t *testing.T) {
	all, err := awsdata.ReadResources()
	need.Part(t, err)
	for name, s := range everyTemplate(t) {
		var raw map[string]any
		require.NoError(t, json.Unmarshal([]byte(s.text), &raw))
		require.Empty(t, all.Check(raw), name)
	}
}

// IAM accepts a policy with an action that does not exist, or that does not support the resource. It allows nothing.
func TestTemplate_IAMActions_ExistAtTheirLevel(t *testing.T) {
	_, err := awsdata.ReadResources()
	need.Part(t, err)
	for name, s := range everyTemplate(t) {
		checked := 0
		for _, r := range s.Resources {
			for _, policy := range policiesIn(r.Properties) {
				statements := statementsToCheck(t, policy)
				found, err := awsdata.CheckStatements(statements)
				require.NoError(t, err)
				require.Empty(t, found, "%s: %s", name, r.Type)
				checked += len(statements)
			}
		}
		require.Greater(t, checked, 10, name)
	}
}

// policiesIn returns all policy documents in a value.
func policiesIn(value any) (all []object) {
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			all = append(all, policiesIn(item)...)
		}
	case object:
		if _, is := value["Statement"].([]any); is {
			return []object{value}
		}
		for _, item := range value {
			all = append(all, policiesIn(item)...)
		}
	}
	return all
}

// statementsToCheck returns the statements of a policy, with ARNs for what only AWS knows. The policy of who may assume a role
// has no resources: it is the role's own.
func statementsToCheck(t *testing.T, policy object) (all []awsdata.Statement) {
	t.Helper()
	for _, raw := range statementsOf(policy) {
		s := awsdata.Statement{Deny: raw["Effect"] == "Deny"}
		for _, action := range toList(raw["Action"]) {
			s.Actions = append(s.Actions, action.(string))
		}
		resources := raw["Resource"]
		if resources == nil {
			require.Equal(t, []string{"sts:AssumeRole"}, s.Actions)
			resources = "arn:aws:iam::111122223333:role/quiesce"
		}
		for _, resource := range toList(resources) {
			s.Resources = append(s.Resources, arnOf(t, resource.(string)))
		}
		if conditions, is := raw["Condition"].(object); is {
			for _, operator := range conditions {
				s.Conditions = append(s.Conditions, slices.Collect(maps.Keys(operator.(object)))...)
			}
		}
		all = append(all, s)
	}
	return all
}

// arnForms are the ARNs of resources of the stack, which it names by a reference.
var arnForms = map[string]string{
	"SQS::Queue": "arn:aws:sqs:eu-west-1:111122223333:queue", "SNS::Topic": "arn:aws:sns:eu-west-1:111122223333:topic",
	"S3::Bucket": "arn:aws:s3:::bucket",
}

var reference = regexp.MustCompile(`^\{(\S+)[^}]*\}(\.Arn)?`)

func arnOf(t *testing.T, resource string) string {
	t.Helper()
	found := reference.FindStringSubmatch(resource)
	if found == nil {
		return resource
	}
	require.Contains(t, arnForms, found[1])
	return arnForms[found[1]] + strings.TrimPrefix(resource, found[0])
}

// AWS checks the form of names and descriptions at deployment, when half of the stack exists already. The forms are those of the
// API references of Lambda, SQS, CloudWatch, IAM, EventBridge, CloudWatch Logs and CloudFormation.
var forms = map[string]map[string]string{
	"AWS::Lambda::Function":           {"FunctionName": `^[a-zA-Z0-9_-]{1,64}$`, "Description": `^.{0,256}$`},
	"AWS::Lambda::Alias":              {"Name": `^[a-zA-Z0-9_-]{1,128}$`},
	"AWS::SQS::Queue":                 {"QueueName": `^[a-zA-Z0-9_-]{1,80}$`},
	"AWS::CloudWatch::Alarm":          {"AlarmName": `^[ -~]{1,255}$`, "AlarmDescription": `^.{0,1000}$`},
	"AWS::CloudWatch::CompositeAlarm": {"AlarmName": `^[ -~]{1,255}$`, "AlarmDescription": `^.{0,1000}$`},
	"AWS::CloudWatch::Dashboard":      {"DashboardName": `^[A-Za-z0-9_-]{1,255}$`},
	"AWS::IAM::Role":                  {"Description": `^[\t\n\r -~\x{A1}-\x{FF}]{0,1000}$`},
	"AWS::Events::Rule":               {"Description": `^.{0,512}$`},
	"AWS::Logs::LogGroup":             {"LogGroupName": `^[.\-_/#A-Za-z0-9]{1,512}$`},
	"AWS::SNS::Topic":                 {"DisplayName": `^.{0,100}$`},
	"AWS::AutoScaling::LifecycleHook": {"LifecycleHookName": `^[A-Za-z0-9_/-]{1,255}$`},
}

func TestTemplate_NamesAndDescriptions_HaveForm(t *testing.T) {
	longest := of(t, longestStack, strings.Repeat("a", 64))
	templates := everyTemplate(t)
	templates["longest"] = longest
	for _, s := range templates {
		for _, r := range s.Resources {
			for property, form := range forms[r.Type] {
				if value, there := r.Properties[property]; there {
					require.Regexp(t, form, value, "%s %s", r.Type, property)
				}
			}
		}
		for _, r := range s.Resources {
			for _, policy := range policiesIn(r.Properties) {
				for _, statement := range statementsOf(policy) {
					if sid, there := statement["Sid"]; there {
						require.Regexp(t, `^[A-Za-z0-9]+$`, sid, "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_sid.html")
					}
				}
			}
		}
		var raw struct{ Description string }
		require.NoError(t, json.Unmarshal([]byte(s.text), &raw))
		require.LessOrEqual(t, len(raw.Description), 1024)
	}
}

// longestStack has the longest names that a configuration can have.
var longestStack = sync.OnceValues(func() (map[string]template, error) {
	return synthesize(fmt.Sprintf("{cluster: %s, autoScalingGroups: [workers-a], lifecycle: {hook: %s}, mode: drain, stack: {name: %s}}",
		strings.Repeat("c", 100), strings.Repeat("h", 255), strings.Repeat("a", 64)))
})
