package postgres

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/env/cloudnativepg"
	"quiesce/test/env/database"
	"quiesce/test/env/poolers"
)

const (
	// drainOfHeld is short for a drain and long for a hold: an instance's grace is half an hour, so the last acts begin 90 seconds before
	// three quarters of it.
	drainOfHeld = "drain: {maxDuration: 4m, completionReserve: 5s, volumeDetachTimeout: 5s}\n"
	// unheldReason is why clients of the operator's own poolers are not held.
	unheldReason = "one of CloudNativePG's own cannot be paused safely"
	// stillFor is for how long a query has no answer, to show that its client is held: many times what one takes on a busy machine.
	stillFor = 3 * time.Second
)

// neighbor is an ordinary pod on the primary's node.
const neighbor = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: neighbor, namespace: NAMESPACE}
spec:
  selector: {matchLabels: {app: neighbor}}
  template:
    metadata: {labels: {app: neighbor}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        podAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - topologyKey: kubernetes.io/hostname
              labelSelector: {matchLabels: {cnpg.io/instanceRole: primary}}
      containers:
        - {name: sleep, image: IMAGE, imagePullPolicy: Never, command: [sleep, infinity]}
`

// tooLate is what a function logs whose last move had too little time, or no answer.
var tooLate = regexp.MustCompile(`cannot move the primary in time[^\n]*(` + strings.Join([]string{
	"the drain's time is nearly over", "the invocation ends too soon", "has begun and cannot be withdrawn", "no other member led within", "cannot read the cluster",
}, "|") + ")")

// Clients come through a Pooler of the operator's own, which cannot be paused and resumed safely. The primary is held, with the Pooler's pods
// and the reason, while all other pods leave. At the end of the drain's time it moves without a pause: clients fail. None commits twice. What
// one saw committed last can be lost, as in every switchover of this operator under load.
func TestCloudNativePG_ItsOwnPooler_HeldUntilTheEnd(t *testing.T) {
	p := newCNPGFixtureWith(t, cloudnativepg.Options{Own: true, Poolers: database.Options{AuthQuery: true}})
	p.allowMore(casesTimeout)
	p.requirePauseNotUndone()
	p.allow()
	function := p.newFunction(drainOfHeld + fmt.Sprintf(movingPhases, p.Name, "connectVia: podIP, "+pauseLimit))
	leader := p.leader()
	p.requireUnheldNamed(p.awaitTrapInPlan(function))
	p.requireHeldByPooler(function)

	other := p.addNeighbor()
	report := p.drainHeld(function, leader, other)
	require.Equal(t, drain.Evicted, podOf(t, report, other.Name).Outcome)
	member := podOf(t, report, leader)
	t.Logf("%s: %s %s %+v, drained in %s", leader, member.Outcome, member.Reason, *member.Escort, report.FinishedAt.Sub(report.StartedAt))
	require.Zero(t, member.Escort.HeldBackSeconds)
	if moved := p.findMove(function, leader); moved != nil {
		require.Equal(t, "last", moved.Strategy, "%+v", moved)
		require.Contains(t, moved.Reason, "0 of 2 poolers held")
		p.requireTrapNamed(moved.Reason)
	} else { // on a busy machine: the primary was told to stop
		require.True(t, member.Outcome != drain.Evicted || member.Escort.Reason == "" || tooLate.MatchString(function.Output()), "%+v", member)
	}
	p.until("another primary", func() (bool, string) {
		now, err := p.cnpg.LeaderName(p.ctx)
		return err == nil && now != "" && now != leader, fmt.Sprint(now, err)
	})
	results, _ := p.finishFailed()
	require.Zero(t, results.Comparison.Repeated+results.Comparison.Unexpected, "%+v", results.Comparison)
	require.Less(t, results.Comparison.Lost, max(1, results.Comparison.Committed/10), "more than what was committed last: %+v", results.Comparison)
}

// requireHeldByPooler requires that a switchover by hand is held because of the Pooler, and that nothing moves.
func (p *cnpgFixture) requireHeldByPooler(function *env.Function) {
	p.Helper()
	leader := p.leader()
	p.until("a hold because of the Pooler", func() (bool, string) {
		var report termination.SwitchoverReport
		p.invoke(function, fmt.Appendf(nil, `{"action":"switchover","cluster":"%s/%s"}`, p.Name, cloudnativepg.Name), &report)
		require.Equal(p, termination.StatusHeld, report.Status, "%+v", report)
		require.Zero(p, report.Escort.HeldBackSeconds)
		return strings.Contains(report.Reason, "can lose what they write during its switchover: "+unheldReason), report.Reason
	})
	require.Equal(p, leader, p.leader())
	p.requireNoClientFailed()
}

// drainHeld drains the primary's node, and requires that the neighbor leaves while the primary is held and no client sees anything.
func (p *cnpgFixture) drainHeld(function *env.Function, leader string, other corev1.Pod) (report termination.Report) {
	p.Helper()
	drained := make(chan struct{})
	var err error
	go func() { defer close(drained); report, err = p.Drain(p.ctx, function, p.Target) }()
	defer func() { <-drained }() // also if a check fails: the function must not outlive the test
	p.until("the neighbor leaves", func() (bool, string) {
		_, err := p.Lab.Client().CoreV1().Pods(p.Name).Get(p.ctx, other.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), "it is there"
	})
	require.Contains(p, function.Output(), "pod held by its escort")
	require.Equal(p, leader, p.leader())
	p.requireNoClientFailed()
	<-drained
	require.NoError(p, err)
	return report
}

// requireUnheldNamed requires that a text names a pooler that cannot be held, and why.
func (p *cnpgFixture) requireUnheldNamed(text string) {
	p.Helper()
	pods, err := p.DB.PoolerPods(p.ctx)
	require.NoError(p, err)
	require.Contains(p, text, p.Name+"/"+pods[0].Name)
	require.Contains(p, text, unheldReason)
}

// addNeighbor adds the neighbor, and waits until it runs on the primary's node.
func (p *cnpgFixture) addNeighbor() corev1.Pod {
	p.Helper()
	p.apply(strings.NewReplacer("NAMESPACE", p.Name, "IMAGE", cloudnativepg.Image).Replace(neighbor))
	pods, err := database.AwaitReady(p.ctx, p.Lab, p.Name, map[string]string{"app": "neighbor"}, 1)
	require.NoError(p, err)
	require.Equal(p, p.Target.Node, pods[0].Spec.NodeName)
	return pods[0]
}

// requirePauseNotUndone requires that the operator's own field does not let clients go on while a transaction is open: the pod waits for its
// end before it reads the field again. If this fails with a later operator, quiesce could pause its poolers.
func (p *cnpgFixture) requirePauseNotUndone() {
	p.Helper()
	pods, err := p.DB.PoolerPods(p.ctx)
	require.NoError(p, err)
	open, client, other := p.client(pods[0]), p.client(pods[0]), p.client(pods[1])
	p.exec(open, "BEGIN; SELECT pg_current_xact_id()")
	require.NoError(p, p.cnpg.SetPaused(p.ctx, true))
	waits, otherWaits := p.awaitHeld(client), p.awaitHeld(other)
	for len(waits) > 0 { // its query only took long: the Pooler was not paused yet
		require.NoError(p, <-waits)
		waits = p.awaitHeld(client)
	}
	require.NoError(p, p.cnpg.SetPaused(p.ctx, false))
	require.NoError(p, <-otherWaits)
	select {
	case err := <-waits:
		require.Fail(p, "a client went on beside an open transaction", "%v", err)
	case <-time.After(stillFor):
	}
	p.exec(open, "COMMIT")
	require.NoError(p, <-waits)
	p.requireNoClientFailed()
	require.NoError(p, p.ResetStalls(p.ctx))
}

// client connects to a pod of the Pooler. The test's end closes the connection.
func (p *cnpgFixture) client(pod corev1.Pod) *pgconn.PgConn {
	p.Helper()
	connection, err := pgconn.Connect(p.ctx, fmt.Sprintf("postgres://worker:worker@%s:5432/postgres?sslmode=disable", pod.Status.PodIP))
	require.NoError(p, err)
	p.Cleanup(func() { _ = connection.Close(context.WithoutCancel(p.ctx)) })
	return connection
}

// awaitHeld sends queries until one has no answer for a time. Its end is sent later.
func (p *cnpgFixture) awaitHeld(client *pgconn.PgConn) (end <-chan error) {
	p.Helper()
	for {
		answered := make(chan error, 1)
		go func() {
			_, err := client.Exec(p.ctx, "SELECT 1").ReadAll()
			answered <- err
		}()
		select {
		case err := <-answered:
			require.NoError(p, err)
			require.NoError(p, poolers.Wait(p.ctx, probeInterval), "the Pooler is not paused")
		case <-time.After(stillFor):
			return answered
		}
	}
}
