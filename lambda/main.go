// Command lambda is the Lambda function: it takes an Auto Scaling lifecycle event, drains the node and completes the lifecycle action. The
// package only connects adapters, one for each technology, with the use case.
package main

import (
	"context"
	"os"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"quiesce/internal/archive"
	"quiesce/internal/asg"
	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/eks"
	"quiesce/internal/kube"
	"quiesce/internal/metrics"
	"quiesce/internal/queue"
	"quiesce/internal/termination"
)

func main() {
	handler, err := newHandler(context.Background(), os.Getenv)
	if err != nil {
		logFatal(os.Stderr, err)
		os.Exit(1)
	}
	lambda.Start(withRequestID(handler.Invoke))
}

// newHandler returns the function's handler. It sends no request: the first invocation connects to AWS and Kubernetes.
func newHandler(ctx context.Context, getenv func(string) string) (*termination.Handler, error) {
	log := newLog(os.Stdout)
	klog.SetSlogLogger(log)
	settings, err := config.Load(getenv)
	if err != nil {
		return nil, err
	}
	sdk, err := loadSDK(ctx)
	if err != nil {
		return nil, err
	}
	access := eks.Cluster{Name: settings.Cluster, Endpoint: settings.Endpoint, CA: settings.CA}
	connect := kube.Connector(func(ctx context.Context) (*rest.Config, error) { return access.Access(ctx, sdk) })
	groups := asg.NewGroups(sdk)
	handler := &termination.Handler{
		Parse:       asg.Parse,
		EncodeEvent: asg.EncodeEvent,
		Groups:      groups,
		Hooks:       asg.NewHooks(sdk),
		Connect:     func(ctx context.Context) (termination.Kubernetes, error) { return connect(ctx) },
		Drainer:     drain.Drainer{Phases: phases(settings, connect, sdk), Concurrency: settings.Drain.MaxConcurrentEvictions, Log: log},
		Policy:      policy(settings),
		Log:         log,
		Metrics:     metrics.New(os.Stdout, settings.Cluster),
	}
	addQueuesAndArchive(handler, settings, sdk)
	return handler, nil
}

// addQueuesAndArchive adds the queues and the archive that are configured.
func addQueuesAndArchive(handler *termination.Handler, settings config.Config, sdk aws.Config) {
	if settings.QueueURL != "" {
		handler.Queue = queue.New(sdk, settings.QueueURL)
	}
	if settings.DeadLetterURL != "" {
		handler.DLQ = queue.NewDeadLetterQueue(sdk, settings.DeadLetterURL)
	}
	if settings.ReportBucket != "" {
		handler.Archive = archive.New(sdk, settings.ReportBucket, settings.Cluster)
	}
}

func policy(settings config.Config) termination.Policy {
	return termination.Policy{
		OwnsGroup:                 settings.OwnsGroup,
		GroupNames:                groupNames(settings.Groups),
		Hook:                      settings.Lifecycle.Hook,
		OnFailure:                 termination.Result(settings.Lifecycle.OnFailure),
		OnRebalanceRecommendation: settings.Drain.OnRebalanceRecommendation,
		Shadow:                    settings.Mode == config.ModeShadow,
		Force:                     settings.Drain.OnDeadline == config.Force,
		AllowManualDrain:          settings.AllowManualDrain,
		Bounds: termination.Bounds{
			MaxDuration: settings.Drain.MaxDuration, CompletionReserve: settings.Drain.CompletionReserve,
			NodeJoinTimeout: settings.Drain.NodeJoinTimeout, VolumeDetachTimeout: settings.Drain.VolumeDetachTimeout,
		},
	}
}

// groupNames returns the names of the groups if none of them is a glob: then a sweep looks at no other group. Otherwise it returns nil.
func groupNames(groups config.Globs) []string {
	if exact := groups.Exact(); len(exact) == len(groups) {
		return exact
	}
	return nil
}
