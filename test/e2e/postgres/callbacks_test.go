package postgres

import (
	"fmt"
	"slices"
	"strings"
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
				require.Positive(t, p.pausedNow())
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
	paused := make(chan bool, 1)
	go func() { paused <- p.logPause(what, began) }()
	do(former, candidate)
	p.awaitAsBefore()
	require.True(p, <-paused, "%s: no pause was seen", what)
	if member, err := p.patroni.Member(p.ctx, former); err == nil && member.UID == leader.UID && member.DeletionTimestamp == nil { // otherwise its log is gone
		require.Equal(p, before+database.DefaultPoolers, p.pausesLogged(former), "%s: poolers paused by the callback", what)
	}
	return former
}

// logPause logs for how long a pooler was paused, as far as polling shows it. It reports whether one was.
func (p *patroniFixture) logPause(what string, began time.Time) bool {
	var first, last time.Time
	for time.Since(began) < pauseSeen {
		switch paused := p.pausedNow(); {
		case paused > 0 && first.IsZero():
			first = time.Now()
		case paused == 0 && !first.IsZero():
			last = time.Now()
			p.Logf("%s: poolers paused after %s, resumed after %s", what, first.Sub(began), last.Sub(began))
			return true
		}
		if poolers.Wait(p.ctx, probeInterval/4) != nil {
			return false
		}
	}
	return false
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
		states := p.poolerStates()
		asBefore := !slices.ContainsFunc(states, func(s poolerState) bool { return s.paused || s.retry != "15" })
		if asBefore {
			return
		}
		require.NoError(p, poolers.Wait(p.ctx, probeInterval), "poolers: %+v", states)
	}
}

func (p *patroniFixture) pausedNow() (n int) {
	for _, s := range p.poolerStates() {
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
func (p *patroniFixture) poolerStates() (states []poolerState) {
	for _, url := range p.poolers("pgbouncer") {
		s, err := p.stateOf(url)
		if err != nil {
			p.Errorf("pooler: %v", err)
		}
		states = append(states, s)
	}
	return states
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
