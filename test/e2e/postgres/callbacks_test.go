package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"quiesce/test/env/database"
	"quiesce/test/env/patroni"
	"quiesce/test/env/poolers"
)

// Somebody else moves or restarts the primary, and quiesce has no part in it. With infra/patronicallback in Patroni's containers no client
// sees any of it. One cluster serves all steps.
func TestCallbacks_SomebodyElseMovesThePrimary_NothingFails(t *testing.T) {
	for _, version := range []string{"1.18", "1.24"} {
		t.Run("pgbouncer "+version, func(t *testing.T) {
			p := newFixture(t, patroni.Options{Version: "4.0", Members: 2, Callbacks: true, Poolers: database.Options{Version: version}})

			former := p.step("patronictl switchover", func(leader, candidate string) {
				p.inMember(leader, "patronictl", "-c", "/etc/patroni/patroni.yaml", "switchover", p.patroni.Scope(),
					"--leader", leader, "--candidate", candidate, "--force")
			})
			p.requireMoved(former)
			p.inMember(former, "test", "-e", "/callbacks/stopped") // the callback that was there before
			leader, err := p.cluster.LeaderName(p.ctx)
			require.NoError(t, err)
			require.Contains(t, p.inMember(leader, "cat", "/callbacks/roles"), "on_role_change primary "+p.patroni.Scope())

			former = p.step("patronictl restart", func(leader, _ string) {
				p.inMember(leader, "patronictl", "-c", "/etc/patroni/patroni.yaml", "restart", p.patroni.Scope(), leader, "--force")
			})
			leader, err = p.cluster.LeaderName(p.ctx)
			require.NoError(t, err)
			require.Equal(t, former, leader, "a restart moves nothing")

			p.step("a stop that is called off", func(leader, _ string) {
				p.inMember(leader, "sh", "-c", "exec >/proc/1/fd/2 2>&1; exec /callbacks/patronicallback before_stop "+
					"-poolers all-poolers."+p.Name+".svc.cluster.local -databases postgres -credentials /etc/callback -resume-after 8s")
			})

			// The watcher goes with its container: only the new leader can resume.
			former = p.step("the leader's pod deleted", func(leader, _ string) {
				_, err := p.Lab.Kubectl(p.ctx, "--namespace", p.Name, "delete", "pod", leader, "--wait=false")
				require.NoError(t, err)
				_, err = p.patroni.AwaitLeader(p.ctx, leader)
				require.NoError(t, err)
			})
			p.requireMoved(former)
			p.requireNothingFailed()
		})
	}
}

// step does something to the leader, and waits until poolers were paused and are as before. It returns who led.
func (p *patroniFixture) step(what string, do func(leader, candidate string)) (former string) {
	p.Helper()
	require.NoError(p, p.cluster.AwaitStreaming(p.ctx))
	leader, err := p.patroni.Leader(p.ctx)
	require.NoError(p, err)
	former = leader.Name
	candidate, err := p.cluster.Candidate(p.ctx)
	require.NoError(p, err)
	before := p.pausesLogged(former)
	began := time.Now()
	looking, stop := context.WithTimeout(p.ctx, pauseSeen)
	defer stop()
	var seen string
	var look sync.WaitGroup
	defer look.Wait()
	look.Go(func() { seen = p.seePause(looking, began) })
	do(former, candidate)
	p.awaitAsBefore()
	look.Wait()
	require.NotEmpty(p, seen, "%s: no pause was seen", what)
	p.Logf("%s: poolers %s", what, seen)
	if member, err := p.patroni.Member(p.ctx, former); err == nil && member.UID == leader.UID && member.DeletionTimestamp == nil { // otherwise its log is gone
		require.Equal(p, before+database.DefaultPoolers, p.pausesLogged(former), "%s: poolers paused by the callback", what)
	}
	return former
}

// seePause returns when poolers were paused and resumed, as far as polling shows it; empty: none was paused. A look that fails is repeated.
func (p *patroniFixture) seePause(ctx context.Context, began time.Time) string {
	var first time.Time
	for poolers.Wait(ctx, probeInterval/4) == nil {
		states, err := p.poolerStates(ctx)
		switch paused := slices.ContainsFunc(states, func(s poolerState) bool { return s.paused }); {
		case paused && first.IsZero():
			first = time.Now()
		case !paused && err == nil && !first.IsZero():
			return fmt.Sprintf("paused after %s, resumed after %s", first.Sub(began), time.Since(began))
		}
	}
	return ""
}

// pauseSeen is how long a pause is looked for: far longer than it takes to begin and to end.
const pauseSeen = 2 * time.Minute

// pausesLogged counts what the callbacks of a member have paused.
func (p *patroniFixture) pausesLogged(member string) int {
	p.Helper()
	said, err := p.Lab.Kubectl(p.ctx, "--namespace", p.Name, "logs", member)
	require.NoError(p, err)
	return strings.Count(said, `msg="paused the pooler"`)
}

// inMember runs a command in the container of a member, and returns what it prints.
func (p *patroniFixture) inMember(member string, command ...string) string {
	p.Helper()
	said, err := p.Lab.Kubectl(p.ctx, append([]string{"--namespace", p.Name, "exec", member, "--"}, command...)...)
	require.NoError(p, err, "%v: %s", command, said)
	return said
}

// awaitAsBefore waits until nothing is paused and no setting is changed at any pooler.
func (p *patroniFixture) awaitAsBefore() {
	p.Helper()
	for {
		states, err := p.poolerStates(p.ctx)
		require.NoError(p, err)
		asBefore := !slices.ContainsFunc(states, func(s poolerState) bool { return s.paused || s.retry != "15" })
		if asBefore {
			return
		}
		require.NoError(p, poolers.Wait(p.ctx, probeInterval), "poolers: %+v", states)
	}
}

func (p *patroniFixture) pausedNow() (n int) {
	p.Helper()
	states, err := p.poolerStates(p.ctx)
	require.NoError(p, err)
	for _, s := range states {
		if s.paused {
			n++
		}
	}
	return n
}

type poolerState struct {
	paused bool
	retry  string
}

// poolerStates returns what the poolers show, and changes nothing there.
func (p *patroniFixture) poolerStates(ctx context.Context) (states []poolerState, err error) {
	pods, err := p.DB.PoolerPods(ctx)
	if err != nil {
		return nil, err
	}
	for _, pod := range pods {
		s, err := p.stateOf(urlOf(pod, "pgbouncer"))
		if err != nil {
			return nil, fmt.Errorf("pooler %s: %w", pod.Name, err)
		}
		states = append(states, s)
	}
	return states, nil
}

func (p *patroniFixture) stateOf(url string) (s poolerState, err error) {
	console, err := pgconn.Connect(p.ctx, url)
	if err != nil {
		return s, err
	}
	defer console.Close(p.ctx)
	databases, err := console.Exec(p.ctx, "SHOW DATABASES").ReadAll()
	if err != nil {
		return s, err
	}
	config, err := console.Exec(p.ctx, "SHOW CONFIG").ReadAll()
	if err != nil {
		return s, err
	}
	for _, row := range rowsOf(databases[0]) {
		s.paused = s.paused || row["name"] == "postgres" && row["paused"] != "0"
	}
	for _, row := range rowsOf(config[0]) {
		if row["key"] == "server_login_retry" {
			s.retry = row["value"]
		}
	}
	if s.retry == "" {
		return s, fmt.Errorf("no server_login_retry in %d rows", len(config[0].Rows))
	}
	return s, nil
}

// rowsOf returns the rows of a table by the names of its columns.
func rowsOf(result *pgconn.Result) (rows []map[string]string) {
	for _, values := range result.Rows {
		row := map[string]string{}
		for i, field := range result.FieldDescriptions {
			row[field.Name] = string(values[i])
		}
		rows = append(rows, row)
	}
	return rows
}
