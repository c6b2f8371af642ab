package main

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"

	"quiesce/internal/archive"
	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/kube"
	"quiesce/internal/queue"
	"quiesce/internal/termination"
)

// join gives the handler the queues that there are, and the archive.
func join(handler *termination.Handler, settings config.Config, sdk aws.Config) {
	if settings.QueueURL != "" {
		handler.Queue = queue.New(sdk, settings.QueueURL)
	}
	if settings.DeadLetterURL != "" {
		handler.DeadLetters = queue.NewDeadLetters(sdk, settings.DeadLetterURL)
	}
	if settings.ReportBucket != "" {
		handler.Archive = archive.New(sdk, settings.ReportBucket, settings.Cluster)
	}
}

// names are those of the groups, if they are names all of them: then nothing else has to be looked at.
func names(groups config.Globs) []string {
	if exact := groups.Exact(); len(exact) == len(groups) {
		return exact
	}
	return nil
}

// cluster is the cluster as a termination sees it. All but Marked and Tell is the client's own.
type cluster struct{ *kube.Client }

var _ termination.Kubernetes = cluster{}

func clusterOf(client *kube.Client, err error) (termination.Kubernetes, error) {
	if err != nil {
		return nil, err
	}
	return cluster{client}, nil
}

// Marked implements termination.Marks.
func (c cluster) Marked(ctx context.Context) ([]termination.Mark, error) {
	marks, err := c.Client.Marked(ctx)
	return each(marks, func(m kube.Mark) termination.Mark { return termination.Mark(m) }), err
}

// Tell implements termination.Events.
func (c cluster) Tell(ctx context.Context, node drain.Node, e termination.Event) error {
	return c.Client.Tell(ctx, node, kube.Event(e))
}
