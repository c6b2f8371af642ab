package pooler

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env/database"
	"quiesce/test/env/poolers"
)

// Without a usable console the pooler is evicted like any other pod, without delay, and the report says why.
func TestEscort_NoConsole_EvictedPlainlyWithReason(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		authType string
		settings func(*fixture) []string
		before   func(*fixture)
	}{
		"no credentials": {settings: func(*fixture) []string { return []string{"strategy: evict"} }},
		"wrong credentials": {settings: func(p *fixture) []string {
			return []string{p.Credentials()[:len(p.Credentials())-1] + ", passwordKey: username}"}
		}},
		"connection refused":   {settings: func(p *fixture) []string { return []string{p.Credentials(), "port: 6433"} }},
		"a cleartext password": {authType: "plain", settings: func(p *fixture) []string { return []string{p.Credentials()} }},
		"a black hole":         {settings: func(p *fixture) []string { return []string{p.Credentials()} }, before: (*fixture).blackHole},
	} {
		t.Run(what, func(t *testing.T) {
			p := newFixture(t, poolers.Options{WorkerGroups: 1, Poolers: database.Options{Version: "1.24", AuthType: c.authType, Grace: 5}})
			p.function = p.newFunction(c.settings(p)...)
			if c.before != nil {
				c.before(p)
			}
			report := p.drain()
			require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
			pooler := poolerOf(t, report)
			require.Equal(t, "plain", pooler.Escort.Strategy, "%+v", pooler.Escort)
			require.NotEmpty(t, pooler.Escort.Reason)
			require.NotContains(t, p.function.Output(), database.AdminPassword)
			require.Less(t, pooler.GoneAt.Sub(report.StartedAt), stuckAfter)
		})
	}
}

// An impossible surge is not started or is rolled back. The strategy evict then drains the pooler.
func TestEscort_SurgeImpossible_FallsBackToEvict(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		before func(*fixture)
		reason string
	}{
		"a network policy selects on the label": {(*fixture).addNetworkPolicy, "network policy"},
		"no replacement comes":                  {(*fixture).cordonOtherNodes, "no replacement"},
	} {
		t.Run(what, func(t *testing.T) {
			p := newFixture(t, poolers.Options{WorkerGroups: 2, Poolers: database.Options{Version: "1.24"}})
			p.function = p.startWith(strings.Replace(p.Configuration(p.Credentials(), "strategy: surge"), "  - name: poolers\n", "  - name: poolers\n    timeout: 5s\n", 1))
			c.before(p)
			report := p.drain()
			require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
			escort := poolerOf(t, report).Escort
			require.Equal(t, "evict", escort.Strategy, "%+v", escort)
			require.Contains(t, strings.ToLower(escort.Reason), c.reason)
			p.requireNoLabelElsewhere()
			requireNoneAborted(t, p.finish())
		})
	}
}

// A frozen pooler answers nothing and is killed at the end of its grace period, no later.
func TestEscort_FrozenPooler_GoneAfterGrace(t *testing.T) {
	p := newFixture(t, poolers.Options{WorkerGroups: 1, Poolers: database.Options{Version: "1.24", Grace: 5}})
	p.inside("pkill -STOP pgbouncer")
	report := p.drain()
	require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
	pooler := poolerOf(t, report)
	require.Equal(t, "plain", pooler.Escort.Strategy)
	require.Less(t, pooler.GoneAt.Sub(report.StartedAt), stuckAfter)
}

func TestEscort_TransactionTooLong_AbortReported(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.18", "1.24"} {
		t.Run(version, func(t *testing.T) {
			p := newFixture(t, poolers.Options{
				WorkerGroups: 1, ExtraWorker: []string{"-straggler=5m"}, Poolers: database.Options{Version: version, Poolers: 1, Grace: 20, MaxUnavailable: "1"},
			}, "strategy: evict", "timeout: 8s")
			report := p.drain()
			require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
			require.NotEmpty(t, poolerOf(t, report).Escort.AbortedDetail)
			require.Less(t, report.FinishedAt.Sub(report.StartedAt), stuckAfter)
		})
	}
}
