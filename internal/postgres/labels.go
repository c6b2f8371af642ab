package postgres

import (
	"slices"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// roleLabel is the label with the role that Patroni writes on each member unless it is configured otherwise
// (https://patroni.readthedocs.io/en/latest/yaml_configuration.html#kubernetes).
const roleLabel = "role"

// MatchLabels returns Match for a drain that runs no escort: something on its node may end the function. It only compares labels, so that
// no pod's text is read. A member of plain Patroni is known by its role, as its annotation is not read.
func MatchLabels(phase config.Phase) func(drain.Pod) bool {
	settings := Settings{Postgres: *phase.Postgres}
	return func(p drain.Pod) bool {
		return settings.hasLabels(p) && phase.Match.Allows(p.Namespace, p.PriorityClass, p.Labels)
	}
}

func (s Settings) hasLabels(p drain.Pod) bool {
	chosen := p.Annotations[escort.Annotation]
	if _, citus := p.Labels[citusLabel]; citus || chosen != "" && chosen != Kind {
		return false
	}
	known := func(preset preset) bool {
		return escort.HasLabels(p.Labels, preset.labels) && p.Labels[preset.cluster] != ""
	}
	patroni := p.Labels[s.ScopeLabel] != "" && (chosen == Kind || toRole(p.Labels[roleLabel]) != "")
	return slices.ContainsFunc(presets, known) || known(s.zalando()) || patroni
}
