package postgres

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/env/cloudnativepg"
	"quiesce/test/env/database"
	"quiesce/test/env/poolers"
	"quiesce/test/env/worker/journal"
)

// Poolers ask the database for the passwords of their clients, and log in there with what clients prove. With a SCRAM verifier in the role's
// Secret, no client sees that the primary's node leaves. With the password itself, CloudNativePG hashes it anew, and new logins fail. A plan
// and a switchover by hand name both before anything is lost.
func TestCloudNativePG_PoolersAskForPasswords_TrapIsNamed(t *testing.T) {
	p := newCNPGFixture(t, database.Options{Version: "1.24", AuthQuery: true})
	function := p.moving()
	p.awaitTrapInPlan(function)
	member := p.drainPrimarysNode(function)
	p.requireTrapNamed(member.Escort.Reason)
	p.requireNothingFailed()
	p.requireNothingPaused()

	p.reopen(p.Target.Node)
	require.NoError(t, p.cnpg.UsePlainPassword(p.ctx))
	writers, err := p.DB.StartWorkers(p.ctx, workersOfTrap, "-hold=60ms", "-think=20ms")
	require.NoError(t, err)
	p.awaitWriters(writers, workersOfTrap, func(w journal.Worker) bool { return w.Committed >= rowCommits })
	hashed, err := p.cnpg.Password(p.ctx)
	require.NoError(t, err)
	var moved termination.SwitchoverReport
	p.until("a switchover", func() (bool, string) {
		p.invoke(function, fmt.Appendf(nil, `{"action":"switchover","cluster":"%s/%s"}`, p.Name, cloudnativepg.Name), &moved)
		return moved.Status == termination.StatusMoved, moved.Reason
	})
	t.Logf("switchover: %+v", moved.Escort)
	p.requireTrapNamed(moved.Escort.Reason)
	p.requireNothingPaused()
	// A pooler that logged in before the operator hashed the password meets the trap when it must log in again. The first client that fails
	// logs in with the new hash, which the pooler then uses for the others.
	require.NoError(t, p.cnpg.AwaitNewPassword(p.ctx, hashed))
	p.tell(p.consoles(), "RECONNECT")
	p.awaitWriters(writers, 1, func(w journal.Worker) bool { return strings.Contains(w.LastError, "password authentication failed") })
}

// workersOfTrap is how many clients meet the trap.
const workersOfTrap = 5

func (p *cnpgFixture) leader() string {
	p.Helper()
	name, err := p.cnpg.LeaderName(p.ctx)
	require.NoError(p, err)
	return name
}

// requireTrapNamed requires that a text names both poolers, and what to do.
func (p *cnpgFixture) requireTrapNamed(text string) {
	p.Helper()
	require.True(p, p.namesTrap(text), text)
}

func (p *cnpgFixture) namesTrap(text string) bool {
	p.Helper()
	pods, err := p.DB.PoolerPods(p.ctx)
	require.NoError(p, err)
	for _, pod := range pods {
		if !strings.Contains(text, p.Name+"/"+pod.Name) {
			return false
		}
	}
	return strings.Contains(text, "may get error 28P01 after the move: ") &&
		strings.Contains(text, "Put the SCRAM verifier, not the password, into the Secret of each role")
}

// awaitTrapInPlan waits for a plan that names the trap, and returns the primary's warnings. A pooler that answers late is not in a plan.
func (p *cnpgFixture) awaitTrapInPlan(function *env.Function) (warnings string) {
	p.Helper()
	p.until("a plan that names the trap", func() (bool, string) {
		warnings = strings.Join(podOf(p.T, p.planOf(function), p.leader()).Warnings, " ")
		return p.namesTrap(warnings), warnings
	})
	return warnings
}

// reopen opens a drained node again, as if its instance had not left, and waits until all instances stream.
func (p *cnpgFixture) reopen(node string) {
	p.Helper()
	_, err := p.Lab.Client().CoreV1().Nodes().Patch(p.ctx, node, types.MergePatchType,
		[]byte(`{"spec":{"unschedulable":null,"taints":null}}`), metav1.PatchOptions{})
	require.NoError(p, err)
	require.NoError(p, p.cnpg.AwaitStreaming(p.ctx))
}

// awaitWriters waits until so many of these workers are like this.
func (p *cnpgFixture) awaitWriters(writers *database.WorkerGroup, wanted int, like func(journal.Worker) bool) {
	p.Helper()
	for {
		now, err := writers.Snapshot(p.ctx)
		require.NoError(p, err)
		found, other := 0, ""
		for _, w := range now.Workers {
			if like(w) {
				found++
			} else {
				other = fmt.Sprintf("%d commits, last error %q", w.Committed, w.LastError)
			}
		}
		if found >= wanted {
			return
		}
		require.NoError(p, poolers.Wait(p.ctx, probeInterval), "%d of %d workers; another: %s", found, wanted, other)
	}
}
