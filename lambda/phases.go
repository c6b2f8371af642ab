package main

import (
	"slices"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/pooler"
)

// hurriedPhase is how long a phase holds back the next on a machine that goes in 100 s: a phase that is stuck leaves the others most
// of that.
const hurriedPhase = 25 * time.Second

func phases(settings config.Config, e escorts) []drain.Phase {
	all := make([]drain.Phase, len(settings.Phases))
	for i, phase := range settings.Phases {
		all[i] = drain.Phase{Name: phase.Name, Settle: phase.Settle, Timeout: phase.Timeout}
		switch {
		case phase.PGBouncer != nil:
			all[i].Match, all[i].Escort, all[i].Lead = isPooler(phase), e.of(phase), phase.PGBouncer.Timeout
		case phase.Name != config.Workloads: // which takes what no other matches
			all[i].Match = func(p drain.Pod) bool { return phase.Match.Matches(p.Namespace, p.PriorityClass, p.Labels) }
		}
	}
	return all
}

// hurried are the same phases for a machine that goes in two minutes: they hold each other back less, and no escort waits for a
// replacement, which would hardly come.
func hurried(all []drain.Phase) []drain.Phase {
	quick := slices.Clone(all)
	for i := range quick {
		quick[i].Timeout = min(quick[i].Timeout, hurriedPhase)
		if escort, is := quick[i].Escort.(*pooler.Escort); is {
			evicting := *escort
			evicting.Strategy, evicting.Timeout = config.StrategyEvict, min(escort.Timeout, hurriedPhase)
			quick[i].Escort, quick[i].Lead = &evicting, evicting.Timeout
		}
	}
	return quick
}
