// Command lambda is the Lambda function: it takes an Auto Scaling lifecycle event, drains the node and completes the lifecycle action. The
// package only connects adapters, one for each technology, with the use case.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"quiesce/internal/archive"
	"quiesce/internal/config"
	"quiesce/internal/eks"
	"quiesce/internal/kube"
	"quiesce/internal/metrics"
	"quiesce/internal/queue"
	"quiesce/internal/termination"
	"quiesce/internal/wire"
)

// version and commit say what was built. The Makefile sets both with -X of the linker
// (https://pkg.go.dev/cmd/link); other builds have these words.
var (
	version = "dev"
	commit  = "unknown"
)

func main() {
	handle, err := newInvoke(context.Background(), os.Getenv)
	if err != nil {
		logFatal(os.Stderr, err)
		os.Exit(1)
	}
	lambda.Start(withRequestID(handle))
}

// newInvoke returns what the process does with an event: Lambda says which of the zip's functions this is. Neither accepts the events of
// the other.
func newInvoke(ctx context.Context, getenv func(string) string) (invoke, error) {
	if getenv("_HANDLER") == config.HooksHandler {
		handler, err := newHooksHandler(ctx, getenv)
		if err != nil {
			return nil, err
		}
		return handler.Invoke, nil
	}
	handler, err := newHandler(ctx, getenv)
	if err != nil {
		return nil, err
	}
	return handler.Invoke, nil
}

// newHandler returns the function's handler. It sends no request: the first invocation connects to AWS and Kubernetes.
func newHandler(ctx context.Context, getenv func(string) string) (*termination.Handler, error) {
	log := newLog(os.Stdout)
	slog.SetDefault(log) // for what is deep below, as a panic in a goroutine
	klog.SetSlogLogger(log)
	settings, err := config.Load(getenv)
	if err != nil {
		return nil, err
	}
	sdk, err := wire.LoadSDK(ctx)
	if err != nil {
		return nil, err
	}
	access := eks.Cluster{Name: settings.Cluster, Endpoint: settings.Endpoint, CA: settings.CA}
	connect := kube.Connector(func(ctx context.Context) (*rest.Config, error) { return access.Access(ctx, sdk) }, settings.Endpoint != "")
	handler := wire.Parts{Settings: settings, Connect: connect, SDK: sdk}.Handler(log)
	handler.Metrics, handler.Version, handler.Commit = metrics.New(os.Stdout, settings.Cluster), version, commit
	addQueuesAndArchive(handler, settings, sdk)
	var resumeLater wire.SendLater
	if settings.QueueURL != "" {
		resumeLater = queue.New(sdk, settings.QueueURL).SendLater
	}
	wire.AddPrimaries(handler, resumeLater)
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
