package postgres

import (
	"context"
	"slices"
	"time"

	"quiesce/internal/escort"
)

// follow waits until clients of the resumed poolers reach the new primary.
func (m *move) follow(ctx context.Context) {
	held := m.heldFronts()
	if len(held) == 0 || m.takenOver {
		return
	}
	limit := followTime
	if !m.facts.Operator.UsesPatroni() {
		limit = cnpgFollowTime
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := escort.Poll(ctx, time.Now().Add(limit), pollInterval, func() (bool, error) { return m.servicesFollow(ctx), nil })
	if err != nil {
		escort.AddReason(m.result, "the Services did not lead to the new primary while clients could wait")
		return
	}
	if m.proven = m.prove(ctx, held); !m.proven {
		_ = escort.Sleep(ctx, followMargin)
	}
}

// servicesFollow reports whether every Service that led to the old primary leads to the new one, and nowhere else.
func (m *move) servicesFollow(ctx context.Context) bool {
	address := ""
	if member := m.facts.Member(m.moved); member != nil {
		address = member.IP
	}
	all, err := m.cluster.Services(ctx, m.facts.Namespace)
	if err != nil || address == "" {
		return false
	}
	leading := leadingTo(all, address)
	return !slices.ContainsFunc(m.paths.services, func(name string) bool {
		isIt := func(s escort.Service) bool { return s.Name == name }
		return slices.ContainsFunc(all, isIt) && !slices.ContainsFunc(leading, isIt)
	})
}

// prove writes through the alias of every pooler that has one. It reports whether all have one, and can write.
func (m *move) prove(ctx context.Context, held []*front) bool {
	var jobs []func() error
	for _, p := range held {
		if !p.alias {
			continue
		}
		jobs = append(jobs, func() error {
			succeeded := 0
			err := escort.Poll(ctx, time.Now().Add(followTime), proofInterval, func() (bool, error) {
				if m.Consoles.ProveWrite(ctx, p.pod, Alias) == nil {
					succeeded++
				} else {
					succeeded = 0
				}
				return succeeded >= proofTries, nil
			})
			p.proven = err == nil
			return err
		})
	}
	return parallel(jobs) == nil && !slices.ContainsFunc(held, func(p *front) bool { return !p.proven })
}
