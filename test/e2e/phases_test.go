package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

const inThreePhases = `
phases:
  - {name: poolers, match: {labelSelector: app.kubernetes.io/name=pgbouncer}, settle: 1s}
  - {name: workloads}
  - {name: critical, match: {priorityClassNames: [system-cluster-critical]}}
`

// Workers that outlive their pooler hang; pods that outlive their DNS fail. Keeping the order is the purpose of quiesce.
func TestPhases_Several_OneAfterTheOther(t *testing.T) {
	s := newFixture(t, 1, inThreePhases)
	node := s.instances[0]
	s.runPodOn(node, "dns", func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-cluster-critical" })
	s.runPodOn(node, "worker")
	s.runPodOn(node, "pooler", labeled("app.kubernetes.io/name", "pgbouncer"))

	report := s.drain(node)
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	pooler, worker, dns := report.pod(t, "pooler"), report.pod(t, "worker"), report.pod(t, "dns")
	require.GreaterOrEqual(t, worker.EvictedAt.Sub(pooler.GoneAt), time.Second, "the poolers settle")
	require.False(t, dns.EvictedAt.Before(worker.GoneAt))
	require.Len(t, report.Phases, 3)
	for i, name := range []string{"poolers", "workloads", "critical"} {
		require.Equal(t, name, report.Phases[i].Name)
		require.False(t, report.Phases[i].FinishedAt.Before(report.Phases[i].StartedAt))
	}
	asked := s.evictions("")
	require.Equal(t, []string{"pooler", "worker", "dns"}, []string{asked[0].Name, asked[1].Name, asked[2].Name})
}

// A blocked phase may cost its own pods, but not those of the later phases.
func TestPhases_FirstBlocked_NextStartsAtTimeout(t *testing.T) {
	const timeout = 2 * time.Second
	s := newFixture(t, 2, `
phases:
  - {name: poolers, match: {labelSelector: app.kubernetes.io/name=pgbouncer}, timeout: 2s}
  - {name: workloads}
`)
	s.deploy("pooler", 1, func(d *appsv1.Deployment) { d.Spec.Template.Labels["app.kubernetes.io/name"] = "pgbouncer" })
	s.pdb("pooler", "pooler", 0)
	target := s.hostOf("pooler")
	pooler := s.podsOn(target)[0].Name
	s.runPodOn(target, "worker")
	end := s.begin(target)
	s.awaitGone("worker")
	s.removePDB("pooler")

	report := end()
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.GreaterOrEqual(t, report.pod(t, "worker").EvictedAt.Sub(report.Phases[0].StartedAt), timeout)
	require.Equal(t, drain.Evicted, report.pod(t, pooler).Outcome, "its own pods stay wanted")
	require.True(t, report.pod(t, "worker").EvictedAt.Before(report.pod(t, pooler).EvictedAt))
}
