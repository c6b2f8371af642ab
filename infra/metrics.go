package main

import (
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/jsii-runtime-go"
)

// namespace is that of the function's own metrics, each with the dimension Cluster.
const namespace = "quiesce"

// The metrics that the function writes into its log
// (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html).
const (
	metricDrains           = "Drains"           // ended, by the further dimension Status
	metricDrainSeconds     = "DrainSeconds"     // from the beginning of the lifecycle action to its completion
	metricPodsEvicted      = "PodsEvicted"      // that left after being signalled
	metricPodsForced       = "PodsForced"       // deleted because time ran out
	metricPodsLeft         = "PodsLeft"         // left to die with the instance though they were wanted gone
	metricBlockedSeconds   = "BlockedSeconds"   // of a drain in which budgets held back a pod
	metricEscorts          = "Escorts"          // ended, by the further dimension Strategy
	metricTransactionsCut  = "TransactionsCut"  // that outlasted their escort
	metricHeartbeatsFailed = "HeartbeatsFailed" // which are made again
	metricHandOvers        = "HandOvers"        // slices that ended before their drain did
	metricQueueSeconds     = "QueueSeconds"     // an event's age when its first slice began
	metricHooksExpired     = "HooksExpired"     // instances that went before their drain was complete
	metricMalformed        = "Malformed"        // events put aside
	metricSweeps           = "Sweeps"           // that ran to their end
	metricWaiting          = "Waiting"          // instances on their way out that a sweep saw
	metricOwned            = "Owned"            // of these, by an invocation that drains them
	metricEnqueued         = "Enqueued"         // terminations whose event was lost
)

// Dimensions that some metrics have beside Cluster.
const (
	dimensionStatus   = "Status"
	dimensionStrategy = "Strategy"
)

// measure is one of the function's own metrics. further are names and values of dimensions beside the cluster's.
func measure(d deployment, name, statistic string, further ...string) awscloudwatch.Metric {
	dimensions := map[string]*string{"Cluster": jsii.String(d.Cluster)}
	for i := 0; i+1 < len(further); i += 2 {
		dimensions[further[i]] = jsii.String(further[i+1])
	}
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace: jsii.String(namespace), MetricName: jsii.String(name), DimensionsMap: &dimensions,
		Statistic: jsii.String(statistic), Period: lasting(time.Minute),
	})
}

// lasting is a duration as CDK wants it.
func lasting(d time.Duration) awscdk.Duration {
	return awscdk.Duration_Seconds(jsii.Number(d.Seconds()))
}
