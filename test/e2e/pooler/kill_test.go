package pooler

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env/database"
	"quiesce/test/env/poolers"
)

// The function is killed at every step of an escort, as its log shows them. A later invocation finishes: the node is drained, no
// pooler stays paused, no pod keeps the escort's label, and no worker hangs.
func TestEscort_FunctionKilled_NextInvocationFinishes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ version, strategy, step string }{
		{"1.18", "evict", "escort started"},
		{"1.18", "evict", "pgbouncer paused"},
		{"1.18", "evict", "pgbouncer evicted"},
		{"1.18", "surge", "surge started"},
		{"1.18", "surge", "replacement ready"},
		{"1.18", "surge", "pgbouncer paused"},
		{"1.24", "evict", "pgbouncer evicted"},
		{"1.24", "evict", "pgbouncer shutdown started"},
		{"1.24", "surge", "surge started"},
		{"1.24", "surge", "replacement ready"},
		{"1.24", "surge", "pgbouncer shutdown started"},
	} {
		t.Run(fmt.Sprint(c.version, " ", c.strategy, ", ", c.step), func(t *testing.T) {
			p := newFixture(t, poolers.Options{WorkerGroups: 1, Poolers: database.Options{Version: c.version}}, "strategy: "+c.strategy)
			event := p.AWS.Terminate(p.Target.ID)[0].Body
			report, ended := p.killAt(c.step, event)
			if ended {
				t.Log("the invocation was faster than the kill")
			} else {
				report = p.redeliver(event)
			}
			require.Contains(t, []termination.Status{termination.StatusDrained, termination.StatusPartial}, report.Status, "%+v", report)
			require.NoError(t, p.AwaitTermination(p.ctx, p.Target))
			p.requireNoLabelElsewhere()
			require.NoError(t, p.AwaitCommits(p.ctx, 20)) // all workers: none is stuck at a paused pooler
			results := p.finish()
			require.Empty(t, results.Hanging)
			require.Zero(t, results.Inconsistent())
			if results.Interrupted() > 0 {
				require.NotEmpty(t, escortDetails(report), "transactions were interrupted without a reason in the report: %+v", results.Comparison)
			}
		})
	}
}
