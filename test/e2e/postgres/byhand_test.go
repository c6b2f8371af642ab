package postgres

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/env/database"
	"quiesce/test/env/patroni"
	"quiesce/test/env/poolers"
)

// A person asks for a switchover, as before an upgrade. The function has no route to pods: it reads through the API server, and asks with
// Patroni's failover object. What must hold the primary does so, and says why. One cluster serves all steps: no client sees any of them.
func TestByHand_HeldRehearsedKilledMoved_NothingFails(t *testing.T) {
	p := newFixtureAlone(t, patroni.Options{Version: "4.0", Members: 2, Poolers: database.Options{Version: "1.18"}})
	function := p.moving("connectVia: portForward, " + pauseLimit)
	leader, err := p.cluster.LeaderName(p.ctx)
	require.NoError(t, err)

	p.until("a plan that every pooler has answered", func() (bool, string) {
		warnings := strings.Join(podOf(t, p.planOf(function), leader).Warnings, " ")
		require.Regexp(t, "The primary of database .* The primary (could move now|would be held)", warnings)
		return strings.Contains(warnings, "2 poolers in front of it can hold clients"), warnings
	})

	require.NoError(t, p.patroni.Configure(p.ctx, map[string]any{"pause": true}))
	held := p.switchover(function, `"rehearse":true`)
	require.Equal(t, termination.StatusHeld, held.Status, "%+v", held)
	require.Contains(t, held.Reason, "maintenance")
	require.NoError(t, p.patroni.Configure(p.ctx, map[string]any{"pause": nil}))

	p.until("a rehearsal", func() (bool, string) {
		r := p.switchover(function, `"rehearse":true`)
		t.Logf("rehearsal: %+v", r)
		return r.Status == termination.StatusRehearsed && r.Escort.HeldBackSeconds > 0, r.Reason
	})
	now, err := p.cluster.LeaderName(p.ctx)
	require.NoError(t, err)
	require.Equal(t, leader, now, "a rehearsal moves nothing")

	p.killPaused(function)
	p.requirePaused()
	p.until("what is paused is resumed", func() (bool, string) { // when the Lease of the killed invocation has expired
		resumed := p.resume(function)
		return len(resumed.Clusters) > 0, resumed.Reason
	})
	p.requireNothingPaused()
	require.Empty(t, p.resume(function).Clusters, "a second time changes nothing")

	someone := p.newPerson()
	someone.requireNothingToResume()
	p.killPaused(function)
	p.requirePaused()
	someone.resumePaused() // the function is gone

	require.NoError(t, p.cluster.AwaitStreaming(p.ctx))
	leader, err = p.cluster.LeaderName(p.ctx) // the killed invocation may have asked for a switchover
	require.NoError(t, err)
	p.until("a switchover", func() (bool, string) {
		r := p.switchover(function, "")
		t.Logf("switchover: %+v", r)
		return r.Status == termination.StatusMoved, r.Reason
	})
	p.requireMoved(leader)
	p.requireNothingPaused()
	p.requireNothingFailed()
}

// killPaused begins a switchover, and kills the function when poolers are paused.
func (p *patroniFixture) killPaused(function *env.Function) {
	p.Helper()
	for range maxTries {
		before, killed := strings.Count(function.Output(), "poolers paused"), make(chan struct{})
		go func() { defer close(killed); _, _ = function.Invoke(p.ctx, p.request(`"rehearse":true`)) }()
		paused := false
		for done := false; !done && !paused; {
			select {
			case <-killed:
				done = true
			case <-time.After(time.Millisecond):
				paused = strings.Count(function.Output(), "poolers paused") > before
			}
		}
		if paused {
			function.Kill()
			<-killed
			if p.paused() > 0 {
				return
			}
			continue // it was faster, and has resumed them
		}
		require.NoError(p, poolers.Wait(p.ctx, time.Second))
	}
	p.Fatal("no switchover paused anything")
}

// maxTries bounds tries of what may be held, such as by a replica that a checkpoint left behind for a moment.
const maxTries = 60

// until tries, a second apart, what may be held for a moment.
func (p *fixture) until(what string, try func() (done bool, why string)) {
	p.Helper()
	why := ""
	for range maxTries {
		var done bool
		if done, why = try(); done {
			return
		}
		require.NoError(p, poolers.Wait(p.ctx, time.Second))
	}
	p.Fatalf("%s did not happen: %s", what, why)
}

func (p *patroniFixture) request(more string) []byte {
	if more != "" {
		more = "," + more
	}
	return fmt.Appendf(nil, `{"action":"switchover","cluster":"%s/%s"%s}`, p.Name, p.patroni.Scope(), more)
}

func (p *patroniFixture) switchover(function *env.Function, more string) (report termination.SwitchoverReport) {
	p.invoke(function, p.request(more), &report)
	return report
}

func (p *fixture) resume(function *env.Function) (report termination.ResumeReport) {
	p.invoke(function, []byte(`{"action":"resume"}`), &report)
	return report
}

func (p *fixture) planOf(function *env.Function) (report termination.Report) {
	p.invoke(function, fmt.Appendf(nil, `{"action":"plan","instanceId":%q}`, p.Target.ID), &report)
	return report
}

func (p *fixture) invoke(function *env.Function, payload []byte, report any) {
	p.Helper()
	result, err := function.Invoke(p.ctx, payload)
	require.NoError(p, err)
	require.Empty(p, result.ErrorType, result.ErrorMessage)
	require.NoError(p, json.Unmarshal(result.Payload, report))
}
