// Command lambda is the function: an Auto Scaling lifecycle event in, a drained node and a completed lifecycle action out. It
// only wires: one edge a technology, the domain in the middle.
package main

import (
	"context"
	"os"

	"github.com/aws/aws-lambda-go/lambda"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"quiesce/internal/asg"
	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/eks"
	"quiesce/internal/kube"
	"quiesce/internal/metrics"
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

// newHandler sends nothing: what has to be asked of AWS or Kubernetes is asked by the first invocation.
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
	groups, all := asg.NewGroups(sdk), phases(settings, escorts{connect: connect, sdk: sdk})
	handler := &termination.Handler{
		Parse:       asg.Parse,
		EncodeEvent: asg.EncodeEvent,
		Groups:      groups,
		Hooks:       asg.NewHooks(sdk),
		Connect:     func(ctx context.Context) (termination.Kubernetes, error) { return connect(ctx) },
		Drainer:     drain.Drainer{Phases: all, Concurrency: settings.Drain.MaxConcurrentEvictions, Log: log},
		Policy:      policy(settings),
		Log:         log,
		Metrics:     metrics.New(os.Stdout, settings.Cluster),
	}
	join(handler, settings, sdk)
	return handler, nil
}

func policy(settings config.Config) termination.Policy {
	return termination.Policy{
		OwnsGroup:                 settings.OwnsGroup,
		GroupNames:                names(settings.Groups),
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
