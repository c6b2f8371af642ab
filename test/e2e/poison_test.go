package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/runtimeapi"
)

const escortedPhases = `
phases:
  - {name: poolers, match: {labelSelector: app.kubernetes.io/name=pgbouncer}, escort: {pgbouncer: {}}}
  - {name: workloads}
`

// Something on the node, such as a pod that uses up the function's memory, ends every invocation. Each one must do less than the one
// before, until one finishes. Otherwise the other pods are killed without SIGTERM.
func TestKill_ThriceUnderTheLease_PlainEvictionsFinish(t *testing.T) {
	s := newFixture(t, 1, escortedPhases)
	target := s.instances[0]
	s.runPodOn(target, "pooler", labeled("app.kubernetes.io/name", "pgbouncer"), stopsAfter("100ms"))
	s.pdbAtLeast("pooler", 1) // it is there when the last invocation begins
	s.runPodOn(target, "web", stopsAfter("100ms"))
	event := s.terminate(target).Body
	for n := range 3 {
		end := s.beginOn(s.function, event)
		if s.awaitLease(target); n == 0 {
			s.awaitLogs("escort started") // the first invocation does all it can
		}
		s.function.Kill()
		require.Equal(t, runtimeapi.ExitError, end().ErrorType)
		s.expireLease(target)
	}
	s.removePDB("pooler")
	said := len(s.function.Output())

	r := s.invoke(event)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status)
	require.NotContains(t, s.function.Output()[said:], "escort started")
	require.Empty(t, s.podsOn(target))
	require.Equal(t, drain.Evicted, r.pod(t, "pooler").Outcome)
	s.requireCompletedOnce(target)
}

// One crash, as of a host, must not cost the poolers of later invocations their escorts for ever: an orderly hand-off starts anew.
func TestKill_ThenHandedOff_EscortsRunAgain(t *testing.T) {
	p := newQueueFixture(t, 1, 1, 15*time.Second, escortedPhases)
	target := p.instances[0]
	p.deploy("web", 1)
	p.pdb("web", "web", 0)
	event := p.terminate(target).Body
	for range 2 {
		end := p.beginOn(p.function, event)
		p.awaitLease(target)
		p.function.Kill()
		require.Equal(t, runtimeapi.ExitError, end().ErrorType)
		p.expireLease(target)
	}
	p.until("the PDB has blocked an invocation until its time was over", func() (bool, error) {
		require.Contains(t, []string{"Incomplete", ""}, p.invoke(event).ErrorType) // "": skipped, as the one before could not release the Lease
		return p.isLeaseReleased(target)
	})
	p.runPodOn(target, "pooler", labeled("app.kubernetes.io/name", "pgbouncer"), stopsAfter("100ms"))
	end := p.beginOn(p.function, event)
	p.awaitLogs("escort started")
	p.removePDB("web")
	p.function.Kill()
	end()
}

// awaitLease waits until an invocation holds the instance's Lease.
func (s *fixture) awaitLease(i env.Instance) {
	s.Helper()
	s.until("the Lease is held", func() (bool, error) {
		free, err := s.isLeaseFree(i)
		return err == nil && !free, err
	})
}

// expireLease makes the Lease of an invocation that has died expire now, and not in half a minute.
func (s *fixture) expireLease(i env.Instance) {
	s.Helper()
	patch := `{"spec":{"renewTime":"` + time.Now().Add(-time.Hour).UTC().Format(metav1.RFC3339Micro) + `"}}`
	_, err := s.Lab.Client().CoordinationV1().Leases("quiesce").Patch(s.ctx, i.ID, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	require.NoError(s, err)
}
