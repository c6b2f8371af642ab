package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
)

// Published versions stay, and everything invokes the function by its alias. A rollback points the alias back.
func TestFunction_IsInvokedByAnAlias_VersionsStay(t *testing.T) {
	s := of(t, publicStack, "quiesce-prod")
	alias := s.only(t, "AWS::Lambda::Alias")
	require.Equal(t, object{
		"FunctionName": "{Lambda::Function quiesce-prod}", "FunctionVersion": "{Lambda::Version}.Version", "Name": "live",
	}, alias)
	for _, r := range s.Resources {
		if r.Type == "AWS::Lambda::Version" {
			require.Equal(t, "RetainExceptOnCreate", r.DeletionPolicy, "a failed deployment keeps none")
		}
	}
	require.Contains(t, fmt.Sprint(s.only(t, "AWS::Lambda::EventSourceMapping")["FunctionName"]), ":live")
	require.Equal(t, "{Lambda::Alias live}", targetOf(t, s.only(t, "AWS::Events::Rule", "ScheduleExpression", "rate(1 minute)"))["Arn"])
	for _, permission := range s.all("AWS::Lambda::Permission") {
		require.Equal(t, "{Lambda::Alias live}", permission["FunctionName"])
	}
}

func TestFunction_Code_IsTheProgramInTheZip(t *testing.T) {
	f := of(t, publicStack, "quiesce-prod").only(t, "AWS::Lambda::Function")
	require.Equal(t, "provided.al2023", f["Runtime"])
	require.Equal(t, []any{"arm64"}, f["Architectures"])
	require.Equal(t, "bootstrap", f["Handler"])
	require.EqualValues(t, 900, f["Timeout"])
	require.Equal(t, "quiesce-prod", f["FunctionName"])
	require.Regexp(t, `^[0-9a-f]{64}\.zip$`, f["Code"].(object)["S3Key"], "named after its content")
}

func TestEnvironment_NoOptions_HasBothQueues(t *testing.T) {
	require.Equal(t, object{"Variables": object{
		"QUIESCE_QUEUE_URL": "{SQS::Queue quiesce-prod}", "QUIESCE_DLQ_URL": "{SQS::Queue quiesce-prod-dlq}", "GOMEMLIMIT": "435MiB",
	}}, of(t, publicStack, "quiesce-prod").only(t, "AWS::Lambda::Function")["Environment"])
}

// Without a limit, the heap grows to twice of what is in use, and Lambda kills the process.
func TestEnvironment_GOMEMLIMIT_IsBelowMemorySize(t *testing.T) {
	f := of(t, publicStack, "quiesce-prod").only(t, "AWS::Lambda::Function")
	limit := f["Environment"].(object)["Variables"].(object)["GOMEMLIMIT"].(string)
	mebibytes, err := strconv.Atoi(strings.TrimSuffix(limit, "MiB"))
	require.NoError(t, err)
	require.InDelta(t, 0.85, float64(mebibytes)/f["MemorySize"].(float64), 0.01)
}

func TestEnvironment_EndpointConfigured_HasIt(t *testing.T) {
	require.Equal(t, object{"Variables": object{
		"QUIESCE_QUEUE_URL": "{SQS::Queue drains}", "QUIESCE_DLQ_URL": "{SQS::Queue drains-dlq}", "GOMEMLIMIT": "435MiB",
		"QUIESCE_CLUSTER_ENDPOINT": "https://0123456789ABCDEF.gr7.us-gov-west-1.eks.amazonaws.com", "QUIESCE_CLUSTER_CA": someCA,
		"QUIESCE_REPORT_BUCKET": "{S3::Bucket}",
	}}, of(t, privateStack, "drains").only(t, "AWS::Lambda::Function")["Environment"])
}

func TestLogs_AreJSONAndExpire(t *testing.T) {
	s := of(t, publicStack, "quiesce-prod")
	require.Equal(t, object{"LogFormat": "JSON", "LogGroup": "{Logs::LogGroup /aws/lambda/quiesce-prod}"},
		s.only(t, "AWS::Lambda::Function")["LoggingConfig"])
	require.EqualValues(t, 90, s.only(t, "AWS::Logs::LogGroup")["RetentionInDays"])
	require.EqualValues(t, 365, of(t, privateStack, "drains").only(t, "AWS::Logs::LogGroup")["RetentionInDays"])
}

// Drains must leave an execution for the sweep, which sends heartbeats for waiting instances.
func TestConcurrency_Reserved_ExceedsQueueMaximum(t *testing.T) {
	s := of(t, publicStack, "quiesce-prod")
	most := s.only(t, "AWS::Lambda::EventSourceMapping")["ScalingConfig"].(object)["MaximumConcurrency"]
	require.EqualValues(t, 100, most)
	require.Greater(t, s.only(t, "AWS::Lambda::Function")["ReservedConcurrentExecutions"], most)

	s = of(t, privateStack, "drains")
	require.EqualValues(t, 10, s.only(t, "AWS::Lambda::EventSourceMapping")["ScalingConfig"].(object)["MaximumConcurrency"])
	require.NotContains(t, s.only(t, "AWS::Lambda::Function"), "ReservedConcurrentExecutions")
}

// In a batch of two, the second message would wait for the drain of the first.
func TestMapping_OneMessage_ReportsItsFailure(t *testing.T) {
	mapping := of(t, publicStack, "quiesce-prod").only(t, "AWS::Lambda::EventSourceMapping")
	require.Equal(t, "{SQS::Queue quiesce-prod}.Arn", mapping["EventSourceArn"])
	require.EqualValues(t, 1, mapping["BatchSize"])
	require.Equal(t, []any{"ReportBatchItemFailures"}, mapping["FunctionResponseTypes"])
}

func TestQueues_Both_AreEncrypted(t *testing.T) {
	queues := of(t, publicStack, "quiesce-prod").all("AWS::SQS::Queue")
	require.Len(t, queues, 2)
	for _, queue := range queues {
		require.Equal(t, true, queue["SqsManagedSseEnabled"])
	}
}

func TestQueuesTopicAndBucket_WithoutTLS_Deny(t *testing.T) {
	s := of(t, publicStack, "quiesce-prod")
	policies := append(s.all("AWS::SQS::QueuePolicy"), s.all("AWS::SNS::TopicPolicy")...)
	policies = append(policies, of(t, privateStack, "drains").all("AWS::S3::BucketPolicy")...)
	require.Len(t, policies, 4)
	for _, policy := range policies {
		require.True(t, slices.ContainsFunc(statementsOf(policy["PolicyDocument"]), func(s object) bool {
			return s["Effect"] == "Deny" && fmt.Sprint(s["Condition"]) == "map[Bool:map[aws:SecureTransport:false]]"
		}), policy)
	}
}

// A drain of 48 hours is two hundred invocations, and each is a receive.
func TestQueue_ThousandReceives_ThenDLQ(t *testing.T) {
	s := of(t, publicStack, "quiesce-prod")
	events, dlq := s.events(t), s.only(t, "AWS::SQS::Queue", "QueueName", "quiesce-prod-dlq")
	require.Equal(t, object{"deadLetterTargetArn": "{SQS::Queue quiesce-prod-dlq}.Arn", "maxReceiveCount": float64(1000)},
		events["RedrivePolicy"])
	require.EqualValues(t, (14 * day).Seconds(), dlq["MessageRetentionPeriod"])
	require.GreaterOrEqual(t, events["MessageRetentionPeriod"], config.MaxWait.Seconds(), "no message expires while its instance can wait")
	require.Less(t, events["MessageRetentionPeriod"], dlq["MessageRetentionPeriod"], "a moved message keeps its age")
}

// Lambda requires a visibility timeout of at least its own. The instance must still wait when the message returns.
func TestQueue_VisibilityTimeout_IsBelowHeartbeatTimeout(t *testing.T) {
	for _, s := range []template{of(t, publicStack, "quiesce-prod"), of(t, privateStack, "drains")} {
		hidden := s.events(t)["VisibilityTimeout"]
		require.GreaterOrEqual(t, hidden, s.only(t, "AWS::Lambda::Function")["Timeout"])
		for _, hook := range s.all("AWS::AutoScaling::LifecycleHook") {
			require.Greater(t, hook["HeartbeatTimeout"], hidden)
		}
	}
}

func (t template) events(tt *testing.T) object {
	tt.Helper()
	return t.only(tt, "AWS::SQS::Queue", "QueueName", t.only(tt, "AWS::Lambda::Function")["FunctionName"])
}

func TestRule_TerminationOnOurHook_GoesToTheQueue(t *testing.T) {
	pattern := func(hook string, groups ...any) object {
		return object{
			"source": []any{"aws.autoscaling"}, "detail-type": []any{"EC2 Instance-terminate Lifecycle Action"},
			"detail": object{"AutoScalingGroupName": groups, "LifecycleHookName": []any{hook}},
		}
	}
	rule := of(t, publicStack, "quiesce-prod").terminations(t)
	require.Equal(t, pattern("quiesce", "workers-a", "workers-b", object{"prefix": "batch-"}), rule["EventPattern"])
	require.Equal(t, "{SQS::Queue quiesce-prod}.Arn", targetOf(t, rule)["Arn"])

	rule = of(t, privateStack, "drains").terminations(t)
	require.Equal(t, pattern("drain-me", "workers-a", object{"wildcard": "batch-*-eu"}, object{"prefix": "gpu-"}), rule["EventPattern"])
}

// EventBridge refused the rule of a stack with 45 groups.
func TestTerminations_PatternTooLong_EveryGroupWithTheHook(t *testing.T) {
	d := deployment{Config: config.Config{Lifecycle: config.Lifecycle{Hook: "quiesce"}}}
	for n := 0; ; n++ {
		d.Groups.Names = append(d.Groups.Names, fmt.Sprintf("eks-workers-of-the-team-%02d-0123456789abcdef", n))
		pattern := terminations(d)
		text, err := json.Marshal(pattern)
		require.NoError(t, err)
		require.LessOrEqual(t, len(text), maxPattern, n)
		if n == 45 {
			require.Equal(t, map[string]any{"LifecycleHookName": []any{"quiesce"}}, pattern["detail"])
			return
		}
		if n < 39 {
			require.Len(t, asObject(pattern["detail"])["AutoScalingGroupName"], n+1)
		}
	}
}

func (t template) terminations(tt *testing.T) object {
	tt.Helper()
	rules := slices.DeleteFunc(t.all("AWS::Events::Rule"), func(rule object) bool {
		return !strings.Contains(fmt.Sprint(rule["EventPattern"]), "aws.autoscaling")
	})
	require.Len(tt, rules, 1)
	return rules[0]
}

// The function checks every event again. An event that the pattern rejects is lost.
func TestEventPattern_EachGlob_MatchesItsGroups(t *testing.T) {
	for glob, want := range map[string]any{
		"workers-a":  "workers-a",
		"batch-*":    object{"prefix": "batch-"},
		"b-*-eu":     object{"wildcard": "b-*-eu"},
		"*-eu":       object{"exists": true},
		"*":          object{"exists": true},
		"gpu-?":      object{"prefix": "gpu-"},
		"gpu-[ab]-*": object{"prefix": "gpu-"},
		`odd\*-*`:    object{"prefix": "odd"},
		"a-*-?":      object{"prefix": "a-"},
		"a-**-b":     object{"prefix": "a-"},
	} {
		require.Equal(t, want, eventPattern(glob), glob)
	}
}

func TestRule_DeliveryFails_RetriesThenDLQ(t *testing.T) {
	target := targetOf(t, of(t, publicStack, "quiesce-prod").terminations(t))
	require.Equal(t, object{"Arn": "{SQS::Queue quiesce-prod-dlq}.Arn"}, target["DeadLetterConfig"])
	require.Equal(t, object{"MaximumEventAgeInSeconds": 3600.0, "MaximumRetryAttempts": 185.0}, target["RetryPolicy"])
}

func TestQueuePolicy_AllowsOnlyOurRules(t *testing.T) {
	for _, s := range []template{of(t, publicStack, "quiesce-prod"), of(t, privateStack, "drains")} {
		for _, policy := range s.all("AWS::SQS::QueuePolicy") {
			senders := slices.DeleteFunc(statementsOf(policy["PolicyDocument"]), func(s object) bool { return s["Effect"] == "Deny" })
			require.NotEmpty(t, senders)
			for _, sender := range senders {
				require.Equal(t, object{"Service": "events.amazonaws.com"}, sender["Principal"])
				require.Equal(t, "sqs:SendMessage", sender["Action"])
				require.Equal(t, object{"ArnEquals": object{"aws:SourceArn": "{Events::Rule}.Arn"}}, sender["Condition"])
			}
		}
	}
}

func TestRule_InterruptionsConfigured_GoToTheQueue(t *testing.T) {
	require.Len(t, of(t, publicStack, "quiesce-prod").all("AWS::Events::Rule"), 4, "terminations, stops, the sweep and the check")

	rule := of(t, privateStack, "drains").only(t, "AWS::Events::Rule", "EventPattern", object{
		"source":      []any{"aws.ec2"},
		"detail-type": []any{"EC2 Spot Instance Interruption Warning", "EC2 Instance Rebalance Recommendation"},
	})
	require.Equal(t, "{SQS::Queue drains}.Arn", targetOf(t, rule)["Arn"])
}

// An instance that stops without its hook is reported in every stack. Replacing instances is the operator's choice.
func TestRule_StopsAndScheduledChanges_GoToTheQueue(t *testing.T) {
	health := object{
		"source": []any{"aws.health"}, "detail-type": []any{"AWS Health Event"},
		"detail": object{"service": []any{"EC2"}, "eventTypeCategory": []any{"scheduledChange"}},
	}
	stops := object{
		"source": []any{"aws.ec2"}, "detail-type": []any{"EC2 Instance State-change Notification"},
		"detail": object{"state": []any{"shutting-down", "stopping"}},
	}
	public, private := of(t, publicStack, "quiesce-prod"), of(t, privateStack, "drains")
	require.Equal(t, "{SQS::Queue quiesce-prod}.Arn", targetOf(t, public.only(t, "AWS::Events::Rule", "EventPattern", stops))["Arn"])
	require.NotContains(t, public.text, "aws.health")
	require.Equal(t, "{SQS::Queue drains}.Arn", targetOf(t, private.only(t, "AWS::Events::Rule", "EventPattern", stops))["Arn"])
	require.Equal(t, "{SQS::Queue drains}.Arn", targetOf(t, private.only(t, "AWS::Events::Rule", "EventPattern", health))["Arn"])
}

func TestSchedules_SweepAndCheck_RunWithoutRetry(t *testing.T) {
	s := of(t, publicStack, "quiesce-prod")
	for rate, input := range map[string]string{"rate(1 minute)": `{"action": "sweep"}`, "rate(1 hour)": `{"action": "check"}`} {
		target := targetOf(t, s.only(t, "AWS::Events::Rule", "ScheduleExpression", rate))
		require.Equal(t, "{Lambda::Alias live}", target["Arn"])
		require.JSONEq(t, input, target["Input"].(string))
		require.EqualValues(t, 0, target["RetryPolicy"].(object)["MaximumRetryAttempts"])
	}
	require.EqualValues(t, 0, s.only(t, "AWS::Lambda::EventInvokeConfig")["MaximumRetryAttempts"])
	permissions := s.all("AWS::Lambda::Permission")
	require.Len(t, permissions, 2)
	for _, permission := range permissions {
		require.Equal(t, "events.amazonaws.com", permission["Principal"])
		require.Equal(t, "{Events::Rule}.Arn", permission["SourceArn"])
	}
}

func TestHooks_GroupNamedExactly_GetsTheHook(t *testing.T) {
	hook := func(group, name, result string, heartbeat float64) object {
		return object{
			"AutoScalingGroupName": group, "LifecycleHookName": name, "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
			"HeartbeatTimeout": heartbeat, "DefaultResult": result,
		}
	}
	require.ElementsMatch(t, []any{hook("workers-a", "quiesce", "CONTINUE", 1200), hook("workers-b", "quiesce", "CONTINUE", 1200)},
		of(t, publicStack, "quiesce-prod").all("AWS::AutoScaling::LifecycleHook"))
	require.Equal(t, hook("workers-a", "drain-me", "ABANDON", 1450),
		of(t, privateStack, "drains").only(t, "AWS::AutoScaling::LifecycleHook"))
}

func TestHooks_GroupsByGlob_OutputHasTheCommand(t *testing.T) {
	require.Equal(t, "aws autoscaling put-lifecycle-hook --auto-scaling-group-name GROUP --lifecycle-hook-name quiesce "+
		"--lifecycle-transition autoscaling:EC2_INSTANCE_TERMINATING --heartbeat-timeout 1200 --default-result CONTINUE",
		of(t, publicStack, "quiesce-prod").Outputs["HooksByHand"].Value)
}

// Auto Scaling ends an action after 100 heartbeat timeouts, even during a drain.
func TestHeartbeatTimeout_LongestDrain_IsCovered(t *testing.T) {
	for longest, want := range map[time.Duration]time.Duration{
		30 * time.Minute: 20 * time.Minute,
		33 * time.Hour:   20 * time.Minute,
		40 * time.Hour:   1450 * time.Second,
		48 * time.Hour:   1729 * time.Second,
		96 * time.Hour:   1729 * time.Second,
	} {
		timeout := config.Config{Drain: config.Drain{MaxDuration: longest}}.HeartbeatTimeout()
		require.Equal(t, want, timeout, longest)
		require.GreaterOrEqual(t, config.MaxHeartbeats*timeout, min(longest, config.MaxWait))
		require.Greater(t, timeout, visibility, "a message returns while its instance waits")
	}
}

// On a hook without a handler, an instance waits for the heartbeat timeout, to no use. CloudFormation deletes in reverse order.
func TestHooks_AreCreatedAfterTheirHandlers(t *testing.T) {
	for name, stacks := range map[string]func() (map[string]template, error){"quiesce-prod": publicStack, "drains": privateStack} {
		s := of(t, stacks, name)
		unrelated := []string{ // to handling an event
			"AWS::AutoScaling::LifecycleHook", "AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm", "AWS::CloudWatch::Dashboard", "AWS::SNS::Topic",
			"AWS::SNS::TopicPolicy", "AWS::S3::BucketPolicy",
		}
		for id, r := range s.Resources {
			if r.Type == "AWS::AutoScaling::LifecycleHook" {
				for other, needed := range s.Resources {
					before := slices.Contains(s.before(id), other)
					require.Equal(t, !slices.Contains(unrelated, needed.Type), before, "%s %s", name, s.name(other))
				}
			}
		}
	}
}

// before returns all resources that are created before one.
func (t template) before(id string) (ids []string) {
	for _, need := range t.Resources[id].needs {
		if _, is := t.Resources[need]; is && !slices.Contains(ids, need) {
			ids = append(append(ids, need), t.before(need)...)
		}
	}
	return ids
}

func TestClusterAccess_Entry_HasTheRBACGroup(t *testing.T) {
	s := of(t, publicStack, "quiesce-prod")
	require.Equal(t, object{
		"ClusterName": "prod", "PrincipalArn": "{IAM::Role}.Arn", "KubernetesGroups": []any{"quiesce"}, "Type": "STANDARD",
	}, s.only(t, "AWS::EKS::AccessEntry"))
	require.Equal(t, "kubectl apply -f infra/rbac.yaml", s.Outputs["Rbac"].Value)
	require.NotContains(t, s.Outputs, "AwsAuth")
}

func TestClusterAccess_NoEntry_OutputHasAwsAuth(t *testing.T) {
	s := of(t, privateStack, "drains")
	require.Empty(t, s.all("AWS::EKS::AccessEntry"))
	require.Equal(t, "- {rolearn: {IAM::Role}.Arn, username: 'quiesce:{{SessionName}}', groups: [quiesce]}", s.Outputs["AwsAuth"].Value)
}

func TestReports_Configured_BucketIsRetained(t *testing.T) {
	require.Empty(t, of(t, publicStack, "quiesce-prod").all("AWS::S3::Bucket"))
	for _, r := range of(t, privateStack, "drains").Resources {
		if r.Type == "AWS::S3::Bucket" {
			require.Equal(t, "Retain", r.DeletionPolicy)
			require.Equal(t, object{
				"BlockPublicAcls": true, "BlockPublicPolicy": true, "IgnorePublicAcls": true, "RestrictPublicBuckets": true,
			}, r.Properties["PublicAccessBlockConfiguration"])
		}
	}
}

func TestOutputs_HaveStopResumeAndRollback(t *testing.T) {
	outputs := of(t, publicStack, "quiesce-prod").Outputs
	const concurrency = "aws lambda put-function-concurrency --function-name quiesce-prod --reserved-concurrent-executions "
	const mapping = " && aws lambda update-event-source-mapping %s --uuid {Lambda::EventSourceMapping}"
	require.Equal(t, concurrency+"0"+fmt.Sprintf(mapping, "--no-enabled"), outputs["Stop"].Value)
	require.Equal(t, concurrency+"105"+fmt.Sprintf(mapping, "--enabled"), outputs["Resume"].Value)
	require.Equal(t, "aws lambda update-alias --function-name quiesce-prod --name live --function-version VERSION",
		outputs["Rollback"].Value)
	require.Equal(t, "aws lambda delete-function-concurrency --function-name drains"+fmt.Sprintf(mapping, "--enabled"),
		of(t, privateStack, "drains").Outputs["Resume"].Value)
}

// A literal "arn:aws:" fails in China and in GovCloud.
func TestStack_AnyPartition_NoLiteralARN(t *testing.T) {
	s := of(t, privateStack, "drains")
	for _, r := range s.Resources {
		require.NotContains(t, fmt.Sprint(r.Properties), "arn:aws:", r.Type)
	}
	require.Contains(t, fmt.Sprint(s.only(t, "AWS::IAM::Role")), "arn:<Partition>:autoscaling:us-gov-west-1:111122223333:")
	s = of(t, publicStack, "quiesce-prod")
	require.Contains(t, fmt.Sprint(s.only(t, "AWS::IAM::Role")), "arn:<Partition>:autoscaling:<Region>:<AccountId>:")
}

func TestStacks_TwoClusters_ShareNoName(t *testing.T) {
	one, other := of(t, publicStack, "quiesce-prod"), of(t, publicStack, "quiesce-test-eu")
	require.NotEmpty(t, names(one))
	for name := range names(one) {
		require.NotContains(t, names(other), name)
	}
	require.Equal(t, "test_eu", other.only(t, "AWS::EKS::AccessEntry")["ClusterName"])
}

// names returns the names that must be unique in an account.
func names(s template) map[string]bool {
	all := map[string]bool{}
	for _, r := range s.Resources {
		for _, key := range []string{"QueueName", "FunctionName", "LogGroupName", "AlarmName", "DashboardName", "BucketName", "RoleName"} {
			if name, is := r.Properties[key].(string); is && !strings.Contains(name, "{") {
				all[r.Type+" "+name] = true
			}
		}
	}
	return all
}

// A template that differs from run to run is deployed and reviewed each time.
func TestStack_SameZip_SameTemplate(t *testing.T) {
	requireNode(t)
	again, err := synthesize(public)
	require.NoError(t, err)
	require.Equal(t, of(t, publicStack, "quiesce-prod").text, again["quiesce-prod"].text)
}

// cdk-nag checks the AWS Solutions rules. Each suppression has a reason.
func TestStacks_PublicAndPrivate_PassAWSSolutionsRules(t *testing.T) {
	require.Empty(t, of(t, publicStack, "quiesce-prod").complaints)
	require.Empty(t, of(t, privateStack, "drains").complaints)
}

func TestReadAll_InvalidConfiguration_IsRejected(t *testing.T) {
	folder := t.TempDir()
	bad, worse := filepath.Join(folder, "a.zip"), filepath.Join(folder, "b.zip")
	require.NoError(t, writeZip(bad, "cluster: prod\nmode: shadow\nmodus: shadow"))
	require.NoError(t, writeZip(worse, "{autoScalingGroups: [a], mode: drain,\nstack: {vpc: {}}}"))
	shared := filepath.Join(folder, "d.zip")
	require.NoError(t, writeZip(shared, "{cluster: prod_eu, autoScalingGroups: [a], mode: drain}"))
	missing := filepath.Join(folder, "c.zip")
	_, err := readAll([]string{bad, worse, shared, missing})
	require.EqualError(t, err, bad+":\n"+
		"quiesce.yaml:1: autoScalingGroups: required\n"+
		"quiesce.yaml:3: modus: unknown key; did you mean mode?\n"+
		worse+":\n"+
		"quiesce.yaml:1: cluster: required, because CLUSTER_NAME is not set\n"+
		"quiesce.yaml:2: stack.vpc.id: required\n"+
		"quiesce.yaml:2: stack.vpc.subnets: required\n"+
		"quiesce.yaml:2: stack.vpc.clusterSecurityGroup: required\n"+
		shared+":\n"+
		"stack.name: required for cluster prod_eu: another cluster could have the name quiesce-prod-eu too, "+
		"because an underscore is not allowed in it: set stack.name, and to that name if the stack exists\n"+
		missing+": open "+missing+": no such file or directory (make build creates it)")
}

// Clusters of two regions may have one name. CDK would panic.
func TestReadAll_OneNameOfTwoStacks_SaysWhatToSet(t *testing.T) {
	folder := t.TempDir()
	west, east, named := filepath.Join(folder, "west.zip"), filepath.Join(folder, "east.zip"), filepath.Join(folder, "named.zip")
	require.NoError(t, writeZip(west, "{cluster: prod, autoScalingGroups: [a], mode: drain, stack: {region: eu-west-1}}"))
	require.NoError(t, writeZip(east, "{cluster: prod, autoScalingGroups: [a], mode: drain, stack: {region: us-east-1}}"))
	require.NoError(t, writeZip(named, "{cluster: prod, autoScalingGroups: [a], mode: drain, stack: {region: us-east-1, name: quiesce-prod-east}}"))
	_, err := readAll([]string{west, named})
	require.NoError(t, err)
	_, err = readAll([]string{west, east, named})
	require.EqualError(t, err, east+":\nstack.name: quiesce-prod is the stack of "+west+" too: set stack.name in one of them")
}

func TestShippedConfiguration_IsValidAndInShadowMode(t *testing.T) {
	text, err := os.ReadFile(config.FileName)
	require.NoError(t, err)
	shipped, err := config.Parse(text, noEnvironment)
	require.NoError(t, err)
	require.Equal(t, config.ModeShadow, shipped.Mode)
}
