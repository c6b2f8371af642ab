package main

import (
	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/pooler"
)

func phases(settings config.Config, e escorts) []drain.Phase {
	all := make([]drain.Phase, len(settings.Phases))
	for i, phase := range settings.Phases {
		all[i] = drain.Phase{Name: phase.Name, Settle: phase.Settle, Timeout: phase.Timeout}
		switch {
		case phase.PGBouncer != nil:
			all[i].Match, all[i].Escort, all[i].Lead = pooler.Match(phase), e.of(phase), phase.PGBouncer.Timeout
		case phase.Name != config.Workloads: // which takes what no other matches
			all[i].Match = func(p drain.Pod) bool { return phase.Match.Matches(p.Namespace, p.PriorityClass, p.Labels) }
		}
	}
	return all
}
