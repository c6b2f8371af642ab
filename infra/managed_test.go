package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
)

// mainPolicy, putPolicy and hooksPolicy are the policies of a stack that manages hooks: what the function that drains always has, what it
// has to put hooks, and what the other function has.
func mainPolicy(t *testing.T) any {
	t.Helper()
	return policyOf(t, of(t, managedStack, "managed"), "Description", "Execution role of managed")
}

func putPolicy(t *testing.T) any {
	t.Helper()
	s := of(t, managedStack, "managed").only(t, "AWS::IAM::RolePolicy")
	require.Equal(t, "{IAM::Role}", s["RoleName"])
	return s["PolicyDocument"]
}

func hooksPolicy(t *testing.T) any {
	t.Helper()
	return policyOf(t, of(t, managedStack, "managed"), "Description", "Puts and removes the lifecycle hooks of managed")
}

// iamCall is a request to Auto Scaling, as IAM sees it.
type iamCall struct {
	action, group string
	tags          map[string]string
}

// allows reports whether IAM allows a call: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html.
func allows(t *testing.T, call iamCall, policies ...any) (is bool) {
	t.Helper()
	arn := "arn:<Partition>:autoscaling:<Region>:<AccountId>:autoScalingGroup:930d940e-891e-4781-a11a-7b0acd480f03:autoScalingGroupName/" + call.group
	for _, policy := range policies {
		for _, s := range statementsOf(policy) {
			applies := slices.Contains(toList(s["Action"]), any(call.action)) && call.holds(t, s["Condition"]) &&
				slices.ContainsFunc(toList(s["Resource"]), func(pattern any) bool { return iamMatch(pattern.(string), arn) })
			if applies && s["Effect"] == "Deny" {
				return false
			}
			is = is || applies
		}
	}
	return is
}

// holds reports whether all conditions of a statement hold. Names of keys have no case, values have one.
func (c iamCall) holds(t *testing.T, conditions any) bool {
	t.Helper()
	all, _ := conditions.(object)
	for operator, keys := range all {
		require.Equal(t, "StringEquals", operator, "the only operator that is known here")
		for key, want := range keys.(object) {
			tag, is := strings.CutPrefix(key, "autoscaling:ResourceTag/")
			require.True(t, is, key)
			holds := false
			for name, value := range c.tags {
				holds = holds || strings.EqualFold(name, tag) && value == want
			}
			if !holds {
				return false
			}
		}
	}
	return true
}

// iamMatch reports whether a pattern of IAM matches: * stands for any text, ? for one character, ${$} for a dollar sign.
func iamMatch(pattern, text string) bool {
	form := strings.NewReplacer(`\*`, ".*", `\?`, ".", `\$\{\$\}`, `\$`).Replace(regexp.QuoteMeta(pattern))
	return regexp.MustCompile("^" + form + "$").MatchString(text)
}

// Both functions may act on every group that is ours, and on no other.
func TestPolicy_GroupIsOurs_DecidesWhatIsAllowed(t *testing.T) {
	settings, err := config.Parse([]byte(managed), noEnvironment)
	require.NoError(t, err)
	ours := 0
	for _, group := range []struct {
		name string
		tags map[string]string
	}{
		{"workers-a", nil}, {"workers-a", map[string]string{"team": "c"}}, {"batch-", nil}, {"batch-1", nil}, {"eks-1", map[string]string{"k8s.io/cluster/prod": "owned"}},
		{"eks-2", map[string]string{"team": "a b", "k8s.io/cluster/prod": "shared"}},
		{"workers-b", nil}, {"workers-a2", nil}, {"my-workers-a", nil}, {"xbatch-1", nil}, {"Batch-1", nil}, {"batch", nil},
		{"eks-3", map[string]string{"k8s.io/cluster/prod": "shared"}}, {"eks-4", map[string]string{"k8s.io/cluster/test": "owned"}},
		{"eks-5", map[string]string{"k8s.io/cluster/prod": ""}}, {"eks-6", map[string]string{"team": "a b c"}}, {"eks-7", map[string]string{"owned": "k8s.io/cluster/prod"}},
		{"eks-8", map[string]string{"team": "owned"}}, {"eks-9", map[string]string{"team": "A B"}},
	} {
		is := settings.Groups.Match(group.name, group.tags)
		if is {
			ours++
		}
		for action, may := range map[string][2]bool{ // the function that drains, and the one for hooks
			"RecordLifecycleActionHeartbeat": {is, false}, "CompleteLifecycleAction": {is, false},
			"PutLifecycleHook": {is, is}, "DeleteLifecycleHook": {false, is},
			"UpdateAutoScalingGroup": {}, "DeleteAutoScalingGroup": {}, "CreateOrUpdateTags": {},
		} {
			call := iamCall{"autoscaling:" + action, group.name, group.tags}
			require.Equal(t, may[0], allows(t, call, mainPolicy(t), putPolicy(t)), "main: %v", call)
			require.Equal(t, may[1], allows(t, call, hooksPolicy(t)), "hooks: %v", call)
		}
	}
	require.Equal(t, 6, ours)
}

func TestPolicy_NoTagAndHooksNotManaged_PutsNone(t *testing.T) {
	for name, stacks := range map[string]func() (map[string]template, error){"quiesce-prod": publicStack, "drains": privateStack} {
		s := of(t, stacks, name)
		for _, action := range []string{"PutLifecycleHook", "DeleteLifecycleHook", "ResourceTag"} {
			require.False(t, strings.Contains(s.text, action), action)
		}
		require.Empty(t, s.all("Custom::LifecycleHooks"))
		require.Len(t, s.all("AWS::Lambda::Function"), 1)
	}
}

// A statement without resources is an error of IAM.
func TestPolicy_TagsOnly_EveryStatementHasAResource(t *testing.T) {
	requireNode(t)
	stacks, err := synthesize(`{cluster: prod, autoScalingGroups: [{tag: "team=a"}], lifecycle: {manageHooks: true}, mode: drain}`)
	require.NoError(t, err)
	s := stacks["quiesce-prod"]
	require.Empty(t, s.complaints)
	for _, r := range s.Resources {
		for _, policy := range policiesIn(r.Properties) {
			for _, statement := range statementsOf(policy) {
				require.NotEqual(t, []any{}, statement["Resource"])
			}
		}
	}
	require.Empty(t, s.all("AWS::AutoScaling::LifecycleHook"))
}

// An event names its group, but not the tags of the group.
func TestRule_GroupsByTag_EveryGroupWithTheHook(t *testing.T) {
	require.Equal(t, object{
		"source": []any{"aws.autoscaling"}, "detail-type": []any{"EC2 Instance-terminate Lifecycle Action"},
		"detail": object{"LifecycleHookName": []any{"quiesce"}},
	}, of(t, managedStack, "managed").terminations(t)["EventPattern"])
}

// Any hook can be deleted. Then the check of the function names this output.
func TestHooksByHand_AnyGroups_HasTheMarkOfManagedHooks(t *testing.T) {
	for _, groups := range []string{"workers-a", `"batch-*"`, `{tag: "team=a"}`} {
		for _, manage := range []bool{false, true} {
			settings, err := config.Parse(fmt.Appendf(nil, "{cluster: prod, mode: drain, autoScalingGroups: [%s], lifecycle: {manageHooks: %t}}", groups, manage), noEnvironment)
			require.NoError(t, err)
			command := *hooksByHand(deployment{Config: settings})
			require.Contains(t, command, "--lifecycle-hook-name quiesce --lifecycle-transition autoscaling:EC2_INSTANCE_TERMINATING --heartbeat-timeout 1200 ")
			require.Equal(t, manage, strings.HasSuffix(command, ` --notification-metadata '{"managedBy":"quiesce-prod"}'`), "%s %t", groups, manage)
		}
	}
	require.Contains(t, of(t, managedStack, "managed").Outputs, "HooksByHand")
	require.Contains(t, of(t, publicStack, "quiesce-test-eu").Outputs, "HooksByHand")
}

// custom returns the ID of the custom resource.
func (t template) custom(tt *testing.T) string {
	tt.Helper()
	for id, r := range t.Resources {
		if r.Type == "Custom::LifecycleHooks" {
			return id
		}
	}
	require.Fail(tt, "no custom resource")
	return ""
}

// CloudFormation deletes in reverse order. The hooks must go before all that drains, and before the function that removes them. The
// permission of the sweep to put them goes even earlier.
func TestManagedHooks_StackIsDeleted_GoBeforeWhatDrains(t *testing.T) {
	s := of(t, managedStack, "managed")
	custom := s.custom(t)
	earlier := s.before(custom)
	for id, r := range s.Resources {
		switch {
		case id == custom:
		case r.Type == "AWS::IAM::RolePolicy":
			require.Contains(t, s.before(id), custom)
		default:
			require.Contains(t, earlier, id, s.name(id))
		}
	}
	require.Len(t, s.all("AWS::IAM::RolePolicy"), 1)
}

// The function must work while the one that drains is stopped, broken or cut off from S3.
func TestManagedHooks_Function_NeedsNothingOfTheOther(t *testing.T) {
	s := of(t, managedStack, "managed")
	hooks, drains := s.only(t, "AWS::Lambda::Function", "Handler", "hooks"), s.only(t, "AWS::Lambda::Function", "Handler", "bootstrap")
	require.Equal(t, drains["Code"], hooks["Code"])
	require.Contains(t, drains, "VpcConfig")
	require.Contains(t, drains, "ReservedConcurrentExecutions")
	for _, property := range []string{"VpcConfig", "ReservedConcurrentExecutions", "Environment"} {
		require.NotContains(t, hooks, property)
	}
	require.Equal(t, object{"LogFormat": "JSON", "LogGroup": "{Logs::LogGroup /aws/lambda/managed/hooks}"}, hooks["LoggingConfig"])
	require.EqualValues(t, 90, s.only(t, "AWS::Logs::LogGroup", "LogGroupName", "/aws/lambda/managed/hooks")["RetentionInDays"])
	require.Empty(t, slices.DeleteFunc(s.all("AWS::Lambda::Permission"), func(p object) bool { return p["Principal"] == "events.amazonaws.com" }),
		"CloudFormation invokes the function in the name of who deploys")
}

func TestManagedHooks_Properties_AreWhatHooksDependOn(t *testing.T) {
	s := of(t, managedStack, "managed")
	require.Equal(t, object{
		"ServiceToken": "{Lambda::Function}.Arn", "ServiceTimeout": 1500.0, "Hook": "quiesce", "HeartbeatTimeout": 1200.0, "DefaultResult": "CONTINUE",
		"Groups": list("workers-a", "batch-*", "tag k8s.io/cluster/prod=owned", "tag team=a b"),
	}, s.only(t, "Custom::LifecycleHooks"))
}

// A stack whose function gives no answer should fail soon, but not before the function was invoked again.
func TestManagedHooks_ServiceTimeout_CoversEveryInvocation(t *testing.T) {
	s := of(t, managedStack, "managed")
	config := s.only(t, "AWS::Lambda::EventInvokeConfig", "Qualifier", "$LATEST")
	wait := s.only(t, "Custom::LifecycleHooks")["ServiceTimeout"].(float64)
	timeout := s.only(t, "AWS::Lambda::Function", "Handler", "hooks")["Timeout"].(float64)
	require.Greater(t, wait, (config["MaximumRetryAttempts"].(float64)+1)*timeout)
	require.LessOrEqual(t, wait, 3600.0, "the limit of CloudFormation")
	require.Equal(t, wait, config["MaximumEventAgeInSeconds"])
}

// Of a group with an exact name, the stack itself creates the hook.
func TestManagedHooks_ExactName_StackHasTheHook(t *testing.T) {
	require.Equal(t, "workers-a", of(t, managedStack, "managed").only(t, "AWS::AutoScaling::LifecycleHook")["AutoScalingGroupName"])
}

func TestStack_ManagedHooks_PassesAWSSolutionsRules(t *testing.T) {
	require.Empty(t, of(t, managedStack, "managed").complaints)
}
