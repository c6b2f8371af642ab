package pooler

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/env/database"
	"quiesce/test/env/poolers"
	"quiesce/test/env/worker/journal"
)

// prestopFixture has two poolers of each version, deployed as infra/prestop/pgbouncer.yaml says, on three nodes. The workers use all.
type prestopFixture struct {
	*fixture
	examples *poolers.Examples
}

func newPrestopFixture(t *testing.T) prestopFixture {
	t.Helper()
	examples := &poolers.Examples{Versions: []string{"1.18", "1.24"}}
	p := newFixture(t, poolers.Options{Nodes: 3, Deploy: examples.Deploy, NodeOfTarget: examples.NodeOfAll, Flags: careful}, "strategy: evict")
	return prestopFixture{fixture: p, examples: examples}
}

// The function is one of the ways. Then two stop the same pgbouncer: its escort on the console, and the hook with a signal.
func TestPreStop_EveryWayAPodLeaves_NoTransactionCut(t *testing.T) {
	p := newPrestopFixture(t)
	for _, way := range p.ways() {
		_, err := p.examples.AwaitReady(p.ctx, p.Lab)
		require.NoError(t, err)
		node, pods := p.onOneNode()
		logs := p.follow(pods)
		way.leave(node, pods)
		for name, log := range logs {
			text := <-log
			require.LessOrEqual(t, strings.Count(text, "got SIGINT"), 1, "%s: %s was signaled twice:\n%s", way.name, name, text)
			require.NotContains(t, text, "got SIGTERM", "%s: %s", way.name, name)
			if !strings.HasSuffix(name, " 1.18") || !strings.Contains(text, "SHUTDOWN command issued") { // else the escort was before the hook
				require.Contains(t, text, "waiting until no new clients come", "%s: the hook of %s", way.name, name)
			}
			t.Logf("%s: %s:\n%s", way.name, name, text)
		}
		p.requireNoneCutSoFar(way.name)
		if !way.refuses {
			p.requireNoneRefusedSoFar(way.name)
		}
	}
	results, err := p.Finish(p.ctx, kernelConnects)
	require.NoError(t, err)
	requireNoneAborted(t, results)
}

// kernelConnects is longer than Linux tries to connect: 127 s. A worker, which has no timeout, may wait for a pod whose network has just
// gone.
const kernelConnects = 150 * time.Second

// way is one way in which a pod leaves.
type way struct {
	name    string
	leave   func(node string, pods []corev1.Pod)
	refuses bool // some new clients may be refused
}

// ways returns the ways. A kubelet under pressure is the long form's: on a busy machine one was seen to lose a pooler's container.
func (p prestopFixture) ways() []way {
	all := []way{
		{"kubectl delete pod", p.deletePods, false},
		{"kubectl drain", p.drainWithKubectl, false},
		{"rolling update", p.restart, false},
		{"the function's escort", p.drainWithEscort, true}, // it shuts 1.18 down within seconds of the eviction
	}
	if os.Getenv("CASES") == "all" {
		all = append(all, way{"node-pressure eviction", p.evictByPressure, true}) // the pod stays in its Service
	}
	return all
}

// onOneNode returns a node that has a pooler of each version, and these poolers.
func (p prestopFixture) onOneNode() (node string, on []corev1.Pod) {
	p.Helper()
	node, err := p.examples.NodeOfAll(p.ctx)
	require.NoError(p, err)
	pods, err := p.DB.PoolerPods(p.ctx)
	require.NoError(p, err)
	return node, slices.DeleteFunc(pods, func(pod corev1.Pod) bool {
		return pod.Spec.NodeName != node || pod.DeletionTimestamp != nil || !database.IsReady(pod)
	})
}

// follow reads the pods' logs until they end.
func (p prestopFixture) follow(pods []corev1.Pod) map[string]chan string {
	logs := map[string]chan string{}
	for _, pod := range pods {
		ended := make(chan string, 1)
		logs[pod.Name+" "+pod.Labels[poolers.VersionLabel]] = ended
		go func() { ended <- p.logOf(pod.Name) }()
	}
	return logs
}

// logOf returns a pod's log when the pod has ended. The stream ends earlier if the kubelet does.
func (p prestopFixture) logOf(name string) (log string) {
	pods := p.Lab.Client().CoreV1().Pods(p.Name)
	for {
		if stream, err := pods.GetLogs(name, &corev1.PodLogOptions{Follow: true}).Stream(p.ctx); err == nil {
			text, _ := io.ReadAll(stream) // it may end in an error when the pod is gone
			_ = stream.Close()
			if len(text) > len(log) {
				log = string(text)
			}
		}
		if pod, err := pods.Get(p.ctx, name, metav1.GetOptions{}); err != nil || hasEnded(pod) || poolers.Wait(p.ctx, pressureInterval) != nil {
			return log
		}
	}
}

func hasEnded(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

func (p prestopFixture) kubectl(args ...string) {
	p.Helper()
	_, err := p.Lab.Kubectl(p.ctx, append([]string{"--namespace", p.Name}, args...)...)
	require.NoError(p, err)
}

func (p prestopFixture) deletePods(_ string, pods []corev1.Pod) {
	p.Helper()
	args := []string{"delete", "pod"}
	for _, pod := range pods {
		args = append(args, pod.Name)
	}
	p.kubectl(args...)
}

func (p prestopFixture) drainWithKubectl(node string, _ []corev1.Pod) {
	p.Helper()
	p.kubectl("drain", node, "--delete-emptydir-data")
	p.kubectl("uncordon", node)
}

func (p prestopFixture) restart(string, []corev1.Pod) {
	p.Helper()
	p.kubectl("rollout", "restart", "deployment", "pgbouncer-1-18", "pgbouncer-1-24")
	for _, name := range []string{"pgbouncer-1-18", "pgbouncer-1-24"} {
		p.kubectl("rollout", "status", "deployment", name)
	}
}

// drainWithEscort terminates the node's instance.
func (p prestopFixture) drainWithEscort(node string, pods []corev1.Pod) {
	p.Helper()
	p.Target = p.instanceOf(node)
	report := p.drain()
	require.Equal(p, termination.StatusDrained, report.Status, "%+v", report)
	escorted := 0
	for _, pod := range report.Pods {
		if pod.Escort != nil {
			require.Equal(p, "evict", pod.Escort.Strategy, "%+v", pod)
			if !strings.HasPrefix(pod.Escort.Version, "1.18") { // what outlasts its pause counts as aborted, though the hook lets it end
				require.Empty(p, pod.Escort.AbortedDetail, "%+v", pod)
			}
			escorted++
		}
	}
	require.Len(p, pods, escorted)
}

// evictByPressure makes the node's kubelet evict the pods itself, one after the other. A machine ends with its kubelet, unless the shell
// that waits for it is stopped. A kubelet that starts under pressure rejects the pods that request nothing. The node is not used again.
func (p prestopFixture) evictByPressure(node string, pods []corev1.Pod) {
	p.Helper()
	p.Target = p.instanceOf(node)
	p.AWS.Terminate(p.Target.ID)
	p.kubectl("cordon", node) // pods with requests tolerate the pressure, and would come back
	p.inside(`pid=$(pgrep -x kubelet); kill -STOP $(ps -o ppid= -p $pid)
		set -- $(tr '\0' ' ' </proc/$pid/cmdline)
		echo 'evictionSoft: {memory.available: "99%%"}' >>$3 # always met
		echo 'evictionSoftGracePeriod: {memory.available: 1s}' >>$3
		echo 'evictionMaxPodGracePeriod: 90' >>$3
		kill $pid; until grep -q '^State:.*Z' /proc/$pid/status; do sleep 0.1; done
		setsid "$@" >>/var/log/kubelet.log 2>&1 </dev/null &`)
	for _, pod := range pods {
		require.Eventually(p, func() bool {
			now, err := p.Lab.Client().CoreV1().Pods(p.Name).Get(p.ctx, pod.Name, metav1.GetOptions{})
			return err == nil && hasEnded(now)
		}, waitTimeout, pressureInterval, "the kubelet ends %s", pod.Name)
		events, err := p.Lab.Client().CoreV1().Events(p.Name).List(p.ctx, metav1.ListOptions{FieldSelector: "reason=Evicted,involvedObject.name=" + pod.Name})
		require.NoError(p, err)
		require.NotEmpty(p, events.Items, "%s was not evicted", pod.Name)
	}
}

// pressureInterval is the time between looks at a pod that takes seconds to end.
const pressureInterval = 200 * time.Millisecond

func (p prestopFixture) instanceOf(node string) env.Instance {
	p.Helper()
	i := slices.IndexFunc(p.Nodes, func(i env.Instance) bool { return i.Node == node })
	require.GreaterOrEqual(p, i, 0, node)
	return p.Nodes[i]
}

// requireNoneCutSoFar requires that no transaction was cut. Which way cut one would not be known at the end.
func (p prestopFixture) requireNoneCutSoFar(way string) {
	p.Helper()
	for _, w := range p.workersNow() {
		require.Empty(p, slices.Concat(w.Aborted, w.Ambiguous), "%s: worker %d: %s", way, w.Worker, w.LastError)
	}
}

func (p prestopFixture) requireNoneRefusedSoFar(way string) {
	p.Helper()
	for _, w := range p.workersNow() {
		require.Zero(p, w.ConnectErrors, "%s: worker %d: %s", way, w.Worker, w.LastError)
	}
}

func (p prestopFixture) workersNow() []journal.Worker {
	p.Helper()
	now, err := p.Snapshot(p.ctx)
	require.NoError(p, err)
	return now.Workers
}
