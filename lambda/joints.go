package main

import (
	"github.com/aws/aws-sdk-go-v2/aws"

	"quiesce/internal/archive"
	"quiesce/internal/config"
	"quiesce/internal/queue"
	"quiesce/internal/termination"
)

// join gives the handler the queues that there are, and the archive.
func join(handler *termination.Handler, settings config.Config, sdk aws.Config) {
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

// names are those of the groups, if they are names all of them: then nothing else has to be looked at.
func names(groups config.Globs) []string {
	if exact := groups.Exact(); len(exact) == len(groups) {
		return exact
	}
	return nil
}
