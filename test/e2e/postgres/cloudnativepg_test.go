package postgres

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/env/cloudnativepg"
	"quiesce/test/env/database"
	"quiesce/test/parts/lab"
)

// operator installs CloudNativePG once.
var operator = sync.OnceValue(func() error {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	root, err := env.Root()
	if err != nil {
		return err
	}
	base, err := shared.BaseNode(ctx)
	if err != nil {
		return err
	}
	return cloudnativepg.Install(ctx, shared.Lab, root, base.Node)
})

// cnpgFixture is a fixture with CloudNativePG.
type cnpgFixture struct {
	*fixture
	cnpg *cloudnativepg.Cluster
}

// newCNPGFixture makes a fixture with CloudNativePG, and these plain poolers.
func newCNPGFixture(t *testing.T, plain database.Options) *cnpgFixture {
	t.Helper()
	return newCNPGFixtureWith(t, cloudnativepg.Options{Poolers: plain})
}

// newCNPGFixtureWith makes a fixture with CloudNativePG.
func newCNPGFixtureWith(t *testing.T, o cloudnativepg.Options) *cnpgFixture {
	t.Helper()
	p := &cnpgFixture{fixture: prepare(t)}
	require.NoError(t, operator())
	p.setUp(o.Count(), func(l *lab.Lab, d database.Options) (cluster, *database.Database, error) {
		o.Namespace, o.Base, o.Group = d.Namespace, d.Base, d.Group
		made, err := cloudnativepg.Deploy(p.ctx, l, o)
		if err != nil {
			return nil, nil, err
		}
		p.cnpg = made
		return made, made.Database, nil
	})
	return p
}

// The node of a primary of CloudNativePG leaves under load. No transaction fails and none is lost. The operator does no switchover of its
// own: the node is not cordoned before the primary has left it.
func TestDrain_NodeOfCloudNativePGsPrimary_NothingFails(t *testing.T) {
	p := newCNPGFixture(t, database.Options{Version: "1.24"})
	member := p.drainPrimarysNode(p.moving())
	require.NotContains(t, member.Escort.Reason, "28P01", "its poolers have a list of users")
	p.requireNothingFailed()
	p.requireNothingPaused()
}

// moving returns a function with the permissions for this cluster, whose configuration has the phase databases.
func (p *cnpgFixture) moving() *env.Function {
	p.Helper()
	p.allow()
	return p.newFunction(fmt.Sprintf(movingPhases, p.Name, "connectVia: podIP, "+pauseLimit))
}

// drainPrimarysNode drains the node of the primary, and requires that it has moved once. It returns the report's line of the old primary.
func (p *cnpgFixture) drainPrimarysNode(function *env.Function) drain.PodReport {
	p.Helper()
	t := p.T
	leader, err := p.cnpg.LeaderName(p.ctx)
	require.NoError(t, err)
	report, err := p.Drain(p.ctx, function, p.Target)
	require.NoError(t, err)
	require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
	member := podOf(t, report, leader)
	require.Equal(t, drain.Evicted, member.Outcome, "%+v", member)
	member.Escort = p.escortThatMoved(function, leader)
	require.Equal(t, "switchover", member.Escort.Strategy, "%+v", member.Escort)
	require.Contains(t, member.Escort.Reason, "2 of 2 poolers held")
	require.Positive(t, member.Escort.HeldBackSeconds)
	t.Logf("%s: %+v", leader, *member.Escort)
	status, err := p.cnpg.Status(p.ctx)
	require.NoError(t, err)
	require.Equal(t, status.CurrentPrimary, status.TargetPrimary)
	require.Contains(t, member.Escort.Reason, "moved to "+status.CurrentPrimary, "quiesce moved it")
	p.requireMoved(leader)
	return member
}

// allow gives the function the permissions for this cluster, as a person would: a copy of the file, with the names changed.
func (p *cnpgFixture) allow() {
	p.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "infra", "rbac-postgres-cnpg.yaml"))
	require.NoError(p, err)
	changed := strings.NewReplacer(
		"https:pg-", "https:"+cloudnativepg.Name+"-", "quiesce-postgres-pg", "quiesce-postgres-"+cloudnativepg.Name, "resourceNames: [pg]",
		"resourceNames: ["+cloudnativepg.Name+"]", "namespace: db", "namespace: "+p.Name,
	).Replace(string(text))
	p.apply(changed)
}
