package postgres

import (
	"fmt"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// report says in the result what was done.
func (m *move) report(what string) {
	m.result.Strategy, m.result.Version = string(m.Strategy), m.facts.Version
	if m.last {
		m.result.Strategy = "last"
	}
	escort.AddReason(m.result, what)
	for _, warning := range m.warnings {
		escort.AddReason(m.result, warning)
	}
	escort.AddReason(m.result, m.paths.passwordsTrap(&m.facts))
	held, all := len(m.heldFronts()), len(m.paths.fronts)
	escort.AddReason(m.result, fmt.Sprintf("%d of %d poolers held", held, all))
	for _, p := range m.paths.fronts {
		if p.unheld != "" {
			escort.AddReason(m.result, fmt.Sprintf("pooler %s not held: %s", p.pod.Ref, p.unheld))
		}
		if text := p.whatIsNotPaused(); text != "" {
			escort.AddReason(m.result, fmt.Sprintf("pooler %s: %s", p.pod.Ref, text))
		}
	}
	escort.AddReason(m.result, m.paths.leadElsewhere(m.facts.Identity))
	if unknown := m.paths.unknown(); len(unknown) > 0 {
		escort.AddReason(m.result, "not known where they lead: "+drain.Names(unknown, maxNames))
	}
	if m.moved != "" && held > 0 && !m.proven {
		escort.AddReason(m.result, "unproven: not every pooler has an alias that showed that clients reach the new primary")
	}
}

// maxNames bounds the names in one sentence.
const maxNames = 5
