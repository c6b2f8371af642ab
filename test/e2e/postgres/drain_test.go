package postgres

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/env/database"
	"quiesce/test/env/patroni"
)

// The node of a primary leaves under load. The function sees what a Lambda sees: the API server, and pods. No transaction fails, none is
// lost, and the node is not cordoned before the primary has left it.
func TestDrain_PrimarysNode_NothingFails(t *testing.T) {
	for name, o := range map[string]patroni.Options{
		"3.0, ConfigMaps, three members, like Zalando, whose operator acts, pgbouncer 1.18": {
			Version: "3.0", Style: patroni.Zalando, PDB: patroni.PDBOfPrimary, Poolers: database.Options{Version: "1.18"},
		},
		"4.0, Endpoints, synchronous, like StackGres, pgbouncer 1.24": {
			Version: "4.0", Endpoints: true, Synchronous: true, Style: patroni.StackGres, Poolers: database.Options{Version: "1.24"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newFixture(t, o)
			function := p.moving("connectVia: podIP, " + pauseLimit)
			leader, err := p.cluster.LeaderName(p.ctx)
			require.NoError(t, err)
			before, err := p.patroni.Transitions(p.ctx)
			require.NoError(t, err)
			var operator *patroni.Operator
			if o.Style == patroni.Zalando {
				operator = p.patroni.PlayOperator(p.ctx)
			}

			report, err := p.Drain(p.ctx, function, p.Target)
			require.NoError(t, err)
			require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
			member := podOf(t, report, leader)
			require.Equal(t, drain.Evicted, member.Outcome, "%+v", member)
			member.Escort = p.escortThatMoved(function, leader)
			require.Equal(t, "switchover", member.Escort.Strategy, "%+v", member.Escort)
			require.Positive(t, member.Escort.HeldBackSeconds)
			t.Logf("%s: %+v", leader, *member.Escort)
			p.requireMoved(leader)
			p.requireNothingFailed()
			p.requireNothingPaused()
			after, err := p.patroni.Transitions(p.ctx)
			require.NoError(t, err)
			require.Equal(t, before+1, after, "switchovers")
			if operator != nil {
				p.requireNotAskedToAct(operator)
			}
		})
	}
}

// requireNotAskedToAct requires that the operator has not answered a cordon so far, though it does answer one of the primary's node.
func (p *patroniFixture) requireNotAskedToAct(operator *patroni.Operator) {
	p.Helper()
	require.NoError(p, p.cluster.AwaitStreaming(p.ctx))
	node, err := p.cluster.NodeOfLeader(p.ctx)
	require.NoError(p, err)
	_, err = p.Lab.Client().CoreV1().Nodes().Patch(p.ctx, node, types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{})
	require.NoError(p, err)
	p.until("the operator's answer to a cordon by hand", func() (bool, string) {
		acts := operator.Acts()
		return len(acts) > 0, fmt.Sprintf("%+v", acts)
	})
	acts := operator.Stop()
	p.Logf("the operator's answer to a cordon by hand: %+v", acts)
	require.Len(p, acts, 1, "%+v", acts)
	require.Equal(p, node, acts[0].Node, "the drain's own cordon came when the primary had left")
	require.NoError(p, acts[0].Err)
}

// moving returns a function whose configuration has the phase databases, with these settings of its escort, and the permissions of
// infra/rbac-postgres-patroni.yaml for the cluster.
func (p *patroniFixture) moving(settings string) *env.Function {
	p.Helper()
	p.allow()
	return p.newFunction(fmt.Sprintf(movingPhases, p.Name, settings))
}

// movingPhases are phases with an escort of primaries in a namespace, with further settings.
const movingPhases = `phases:
  - name: databases
    match: {namespaces: [%[1]s]}
    escort: {postgres: {secretRef: {namespace: %[1]s, name: pgbouncer-admin}, %[2]s}}
  - name: workloads
`

// allow gives the function the permissions for this cluster, as a person would: a copy of the file, with the names changed.
func (p *patroniFixture) allow() {
	p.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "infra", "rbac-postgres-patroni.yaml"))
	require.NoError(p, err)
	members, err := p.cluster.Members(p.ctx)
	require.NoError(p, err)
	var proxies []string
	for _, m := range members {
		proxies = append(proxies, fmt.Sprintf("%q", m.Name+":8008"))
	}
	changed := strings.NewReplacer(
		`["demo-0:8008", "demo-1:8008"]`, "["+strings.Join(proxies, ", ")+"]",
		"quiesce-postgres-demo", "quiesce-postgres-"+p.patroni.Scope(), "demo", p.patroni.Scope(), "namespace: db", "namespace: "+p.Name,
	).Replace(string(text))
	p.apply(changed)
}

// apply applies manifests.
func (p *fixture) apply(manifests string) {
	p.Helper()
	folder, err := os.MkdirTemp("", "quiesce-rbac") // kubectl does not take the commas of a test's own folder
	require.NoError(p, err)
	p.Cleanup(func() { require.NoError(p, os.RemoveAll(folder)) })
	file := filepath.Join(folder, "rbac.yaml")
	require.NoError(p, os.WriteFile(file, []byte(manifests), 0o600))
	require.NoError(p, p.Lab.Apply(p.ctx, file))
}

// podOf returns the report's line of a pod.
func podOf(t *testing.T, r termination.Report, name string) drain.PodReport {
	t.Helper()
	for _, p := range r.Pods {
		if p.Name == name {
			return p
		}
	}
	text, _ := json.Marshal(r)
	t.Fatalf("no pod %s in %s", name, text)
	return drain.PodReport{}
}

// requireMoved requires that another member leads now.
func (p *fixture) requireMoved(former string) {
	p.Helper()
	leader, err := p.cluster.LeaderName(p.ctx)
	require.NoError(p, err)
	require.NotEmpty(p, leader)
	require.NotEqual(p, former, leader)
}

// escortThatMoved returns what the escort says that moved this primary. The report has only the last escort: if the old primary streams late, or
// its eviction is refused, a later one evicts it and knows nothing of the move.
func (p *fixture) escortThatMoved(function *env.Function, primary string) *drain.EscortResult {
	p.Helper()
	found := p.findMove(function, primary)
	require.NotNil(p, found, "no escort of %s says that it moved", primary)
	return found
}

// findMove is escortThatMoved where there may be none.
func (p *fixture) findMove(function *env.Function, primary string) (found *drain.EscortResult) {
	p.Helper()
	for text := range strings.Lines(function.Output()) {
		var line struct {
			Msg, Pod string
			Escort   *drain.EscortResult
		}
		if json.Unmarshal([]byte(text), &line) == nil && line.Msg == "escort finished" && line.Pod == p.Name+"/"+primary && line.Escort != nil &&
			strings.Contains(line.Escort.Reason, "moved to ") {
			require.Nil(p, found, "it moved twice")
			found = line.Escort
		}
	}
	return found
}

// requireNothingPaused requires that no database of any pooler is paused.
func (p *fixture) requireNothingPaused() {
	p.Helper()
	require.Zero(p, p.paused())
}

// requirePaused requires that a database of a pooler is paused.
func (p *fixture) requirePaused() {
	p.Helper()
	require.Positive(p, p.paused())
}

// paused counts the databases of the poolers that are paused.
func (p *fixture) paused() (n int) {
	p.Helper()
	for _, console := range p.consoles() {
		results, err := console.Exec(p.ctx, "SHOW DATABASES").ReadAll()
		require.NoError(p, err)
		column := slices.IndexFunc(results[0].FieldDescriptions, func(f pgconn.FieldDescription) bool { return f.Name == "paused" })
		require.NotEqual(p, -1, column)
		for _, row := range results[0].Rows {
			if string(row[column]) != "0" {
				n++
			}
		}
	}
	return n
}
