package main

import (
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/jsii-runtime-go"

	"quiesce/internal/metrics"
)

// measure returns one of the function's own metrics. further has the names and values of dimensions beside Cluster.
func measure(d deployment, name, statistic string, further ...string) awscloudwatch.Metric {
	dimensions := map[string]*string{metrics.Cluster: jsii.String(d.Cluster)}
	for i := 0; i+1 < len(further); i += 2 {
		dimensions[further[i]] = jsii.String(further[i+1])
	}
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace: jsii.String(metrics.Namespace), MetricName: jsii.String(name), DimensionsMap: &dimensions,
		Statistic: jsii.String(statistic), Period: duration(time.Minute),
	})
}

// duration converts a duration for CDK.
func duration(d time.Duration) awscdk.Duration {
	return awscdk.Duration_Seconds(jsii.Number(d.Seconds()))
}
