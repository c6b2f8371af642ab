package main

import (
	"fmt"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/aws-cdk-go/awscdk/v2/interfaces/interfacesawscloudwatch"
	"github.com/aws/jsii-runtime-go"

	"quiesce/internal/metrics"
)

// width is the width of a dashboard, in grid units.
const width = 24

// newDashboard creates the dashboard. Three rows answer one question each: what is draining now, what got stuck, what was
// forced. The last row is an overview.
func newDashboard(stack awscdk.Stack, d deployment, p parts, alarms []interfacesawscloudwatch.IAlarmRef) awscloudwatch.Dashboard {
	return awscloudwatch.NewDashboard(stack, jsii.String("Dashboard"), &awscloudwatch.DashboardProps{
		DashboardName: jsii.String(d.StackName()),
		Widgets: &[]*[]awscloudwatch.IWidget{
			{awscloudwatch.NewAlarmStatusWidget(&awscloudwatch.AlarmStatusWidgetProps{
				Title: jsii.String("Alarms"), Alarms: &alarms, Width: jsii.Number(width),
			})},
			heading("What is draining now"), drainingNow(d, p),
			heading("What got stuck"), stuck(d, p),
			heading("What was forced"), forced(d),
			heading("Overview"), overview(d),
		},
	})
}

func drainingNow(d deployment, p parts) *[]awscloudwatch.IWidget {
	return row(
		graph("Instances waiting, draining, retained",
			measure(d, metrics.InstancesWaiting, "Maximum"), measure(d, metrics.InstancesDraining, "Maximum"),
			measure(d, metrics.InstancesRetained, "Maximum")),
		graph("Concurrency, messages in flight, messages visible",
			p.function.lambda.Metric(jsii.String("ConcurrentExecutions"), eachMinute("Maximum")),
			p.queues.events.MetricApproximateNumberOfMessagesNotVisible(eachMinute("Maximum")),
			p.queues.events.MetricApproximateNumberOfMessagesVisible(eachMinute("Maximum"))),
		lines(d, "Active drains (last log line)",
			`filter ispresent(instance)`,
			`stats latest(msg) as last, latest(node) as host, max(@timestamp) as at by instance, group`,
			`filter last != "event handled"`, `sort at desc`),
	)
}

func stuck(d deployment, p parts) *[]awscloudwatch.IWidget {
	return row(
		graph("Delays",
			measure(d, metrics.PDBBlockedSeconds, "Maximum"), measure(d, metrics.HeartbeatsFailed, "Sum"),
			measure(d, metrics.LongestWaitSeconds, "Maximum"), measure(d, metrics.OldestRetainedSeconds, "Maximum"),
			measure(d, metrics.Handoffs, "Sum"), measure(d, metrics.EventsResent, "Sum")),
		graph("Age of events (s), failed invocations, bad events, lost cluster and nodes",
			measure(d, metrics.EventAgeSeconds, "Maximum"), p.queues.events.MetricApproximateAgeOfOldestMessage(eachMinute("Maximum")),
			measure(d, metrics.InvocationsFailed, "Sum"), measure(d, metrics.ClusterUnreachable, "Sum"), measure(d, metrics.NodesNotFound, "Sum"),
			p.queues.dlq.MetricApproximateNumberOfMessagesVisible(eachMinute("Maximum")), measure(d, metrics.MalformedEvents, "Sum"),
			measure(d, metrics.EventsRejected, "Sum"), measure(d, metrics.ChecksFailed, "Maximum")),
		reports(d, "Incomplete, partial, failed and rejected drains", "partial", "incomplete", "failed", "rejected", "node-not-found"),
	)
}

func forced(d deployment) *[]awscloudwatch.IWidget {
	return row(
		graph("Pods", measure(d, metrics.PodsForced, "Sum"), measure(d, metrics.PodsRemaining, "Sum"), measure(d, metrics.PodsRefused, "Sum")),
		graph("Aborted transactions, expired hooks, groups and stops without hook, hooks put",
			measure(d, metrics.TransactionsAborted, "Sum"), measure(d, metrics.HooksExpired, "Sum"),
			measure(d, metrics.GroupsWithoutHook, "Sum"), measure(d, metrics.UnhookedStops, "Sum"), measure(d, metrics.HooksPut, "Sum")),
		reports(d, "Drains that forced a pod", "forced"),
	)
}

func overview(d deployment) *[]awscloudwatch.IWidget {
	return row(
		graph("Drains by status", each(d, metrics.Drains, metrics.Status)),
		graph("Drain duration (s)", measure(d, metrics.DrainSeconds, "p50"), measure(d, metrics.DrainSeconds, "Maximum")),
		graph("Pods evicted, escorts by strategy, sweeps, checks",
			measure(d, metrics.PodsEvicted, "Sum"), each(d, metrics.Escorts, metrics.Strategy), measure(d, metrics.Sweeps, "Sum"),
			measure(d, metrics.Checks, "Sum")),
		graph("Scheduled changes, instances replaced and at risk",
			measure(d, metrics.ScheduledChanges, "Maximum"), measure(d, metrics.InstancesReplaced, "Sum"), measure(d, metrics.InstancesAtRisk, "Maximum")),
	)
}

// each returns a metric for each value that a dimension ever had.
func each(d deployment, metric, dimension string) awscloudwatch.IMetric {
	return awscloudwatch.NewMathExpression(&awscloudwatch.MathExpressionProps{
		Expression: jsii.String(fmt.Sprintf(`SEARCH('{%s,%s,%s} MetricName="%s" Cluster="%s"', 'Sum')`,
			metrics.Namespace, metrics.Cluster, dimension, metric, d.Cluster)),
		UsingMetrics: &map[string]awscloudwatch.IMetric{},
		Label:        jsii.String(""), Period: eachMinute("Sum").Period,
	})
}

func heading(text string) *[]awscloudwatch.IWidget {
	return row(awscloudwatch.NewTextWidget(&awscloudwatch.TextWidgetProps{
		Markdown: jsii.String("## " + text), Width: jsii.Number(width), Height: jsii.Number(1),
	}))
}

func graph(title string, metrics ...awscloudwatch.IMetric) awscloudwatch.IWidget {
	return awscloudwatch.NewGraphWidget(&awscloudwatch.GraphWidgetProps{
		Title: &title, Left: &metrics, Width: jsii.Number(width / 4),
	})
}

// reports lists the reports with one of the statuses.
func reports(d deployment, title string, statuses ...string) awscloudwatch.IWidget {
	return lines(d, title,
		`fields @timestamp, report.status, report.instanceId, report.node, report.reason, error`,
		`filter report.status in ["`+strings.Join(statuses, `", "`)+`"]`,
		`sort @timestamp desc`)
}

func lines(d deployment, title string, query ...string) awscloudwatch.IWidget {
	return awscloudwatch.NewLogQueryWidget(&awscloudwatch.LogQueryWidgetProps{
		Title: &title, LogGroupNames: jsii.Strings(logGroupName(d)), QueryLines: jsii.Strings(query...), Width: jsii.Number(width / 2),
	})
}

func row(widgets ...awscloudwatch.IWidget) *[]awscloudwatch.IWidget { return &widgets }
