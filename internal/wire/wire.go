// Package wire joins the use case with the adapters of one cluster and one account. The function and quiescectl share it, so both
// make the same plan. It sends no request by itself.
package wire

import (
	"cmp"
	"context"
	"log/slog"

	"github.com/aws/aws-sdk-go-v2/aws"

	"quiesce/internal/asg"
	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/kube"
	"quiesce/internal/termination"
)

// Parts are what the use case is joined from.
type Parts struct {
	Settings config.Config
	Connect  Connector
	SDK      aws.Config
	Logins   escort.Logins // for all consoles, instead of what the settings name; nil: those of the settings
}

// Handler returns a handler without queues, archive, metrics, and without Primaries, which are added if they are to act.
func (p Parts) Handler(log *slog.Logger) *termination.Handler {
	return &termination.Handler{
		Parse:       asg.Parse,
		EncodeEvent: asg.EncodeEvent,
		Groups:      asg.NewGroups(p.SDK),
		Hooks:       asg.NewHooks(p.SDK),
		Connect:     func(ctx context.Context) (termination.Kubernetes, error) { return p.Connect(ctx) },
		NextStep:    func(err error) string { return cmp.Or(asg.NextStep(err), kube.NextStep(err)) },
		Drainer:     drain.Drainer{Phases: p.Phases(), Concurrency: p.Settings.Drain.MaxConcurrentEvictions, Log: log},
		Policy:      Policy(p.Settings),
		Log:         log,
	}
}

// Policy returns the operator's decisions.
func Policy(settings config.Config) termination.Policy {
	return termination.Policy{
		Owns:                      settings.Groups.Match,
		GroupsByTag:               len(settings.Groups.Tags) > 0,
		GroupNames:                settings.Groups.Listed(),
		Hook:                      settings.Lifecycle.Hook,
		HeartbeatTimeout:          settings.HeartbeatTimeout(),
		ManageHooks:               settings.Lifecycle.ManageHooks,
		ManagedBy:                 settings.StackName(),
		OnFailure:                 termination.Result(settings.Lifecycle.OnFailure),
		OnRebalanceRecommendation: settings.Drain.OnRebalanceRecommendation,
		OnSpotInterruption:        settings.Drain.OnSpotInterruption,
		OnScheduledChange:         settings.Drain.OnScheduledChange,
		Cluster:                   settings.Cluster,
		Shadow:                    settings.Mode == config.ModeShadow,
		Force:                     settings.Drain.OnDeadline == config.Force,
		AllowManualDrain:          settings.AllowManualDrain,
		Bounds: termination.Bounds{
			MaxDuration: settings.Drain.MaxDuration, CompletionReserve: settings.Drain.CompletionReserve,
			NodeJoinTimeout: settings.Drain.NodeJoinTimeout, VolumeDetachTimeout: settings.Drain.VolumeDetachTimeout,
		},
	}
}
