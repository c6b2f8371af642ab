package pooler

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/env/database"
	"quiesce/test/env/poolers"
	"quiesce/test/parts/lab"
	"quiesce/test/parts/runtimeapi"
)

// waitTimeout bounds every wait of these tests: far more than any needs, so that only a real hang reaches it.
const waitTimeout = 2 * time.Minute

// testTimeout bounds a whole test. Most of it is the setup, when eight tests share two cores.
const testTimeout = 20 * time.Minute

// hangsAfter is the time without a commit after which a worker with transactions of 30 ms counts as hanging: more than a busy machine
// delays one, and less than any timeout that would free a worker.
const hangsAfter = 30 * time.Second

// dialTimeout is the workers'. Without a preStop hook, a pod's address is silent once the pod is gone. A late node proxy still sends
// clients there. Two seconds are enough for a lost packet, and less than any stall that a test looks at. After the pod has answered once,
// workers have no time limits.
const dialTimeout = "-dial-timeout=2s"

// fixture is one test's poolers and workers, and a function.
type fixture struct {
	*testing.T
	*poolers.Fixture
	ctx      context.Context
	function *env.Function
}

// newFixture makes a fixture and a function, whose escort has the credentials and these settings.
func newFixture(t *testing.T, o poolers.Options, settings ...string) *fixture {
	t.Helper()
	lab.RequireMachines(t)
	require.NoError(t, sharedErr)
	t.Parallel()
	acquireSlots(t, cmp.Or(o.WorkerGroups, poolers.DefaultWorkerGroups))
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	o.Name = fmt.Sprintf("poolers-%d", testCount.Add(1))
	o.WorkerFlags = []string{dialTimeout}
	set, err := poolers.SetUp(ctx, shared, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, set.TearDown(context.WithoutCancel(ctx))) })
	p := &fixture{T: t, Fixture: set, ctx: ctx}
	t.Cleanup(p.logPoolers)
	p.function = p.newFunction(append([]string{p.Credentials()}, settings...)...)
	return p
}

// logPoolers logs the poolers of a failed test. A restarted pooler was restarted by its probe, for example, not by us.
func (p *fixture) logPoolers() {
	if p.Failed() {
		pods, err := p.DB.PoolerPods(context.WithoutCancel(p.ctx))
		p.Logf("the poolers at the end: %s %v", database.Describe(pods), err)
	}
}

func (p *fixture) newFunction(settings ...string) *env.Function {
	p.Helper()
	function, err := p.Function(context.Background(), p.Configuration(settings...))
	require.NoError(p, err)
	p.Cleanup(func() {
		require.NoError(p, function.Close())
		if p.Failed() {
			p.Logf("the function's log:\n%s", function.Output())
		}
	})
	return function
}

// drain terminates the target, waits for its drain, and kills its node.
func (p *fixture) drain() termination.Report {
	p.Helper()
	require.NoError(p, p.ResetStalls(p.ctx))
	report, err := p.Drain(p.ctx, p.function, p.Target)
	require.NoError(p, err)
	require.NoError(p, p.AwaitTermination(p.ctx, p.Target))
	return report
}

// finish waits until every worker has committed again, then stops them and compares their results with the database.
func (p *fixture) finish() poolers.Results {
	p.Helper()
	results, err := p.Finish(p.ctx, hangsAfter)
	require.NoError(p, err)
	return results
}

// plan returns the plan of the target's drain.
func (p *fixture) plan() (report termination.Report) {
	p.Helper()
	result, err := p.function.Invoke(p.ctx, fmt.Appendf(nil, `{"action":"plan","instanceId":%q}`, p.Target.ID))
	require.NoError(p, err)
	require.Empty(p, result.ErrorType, result.ErrorMessage)
	require.NoError(p, json.Unmarshal(result.Payload, &report))
	return report
}

func poolerOf(t *testing.T, r termination.Report) drain.PodReport {
	t.Helper()
	for _, p := range r.Pods {
		if strings.HasPrefix(p.Name, "pgbouncer-") && (p.Escort != nil || r.Status == termination.StatusPlanned) {
			return p
		}
	}
	require.Fail(t, "no pooler with an escort", "%+v", r)
	return drain.PodReport{}
}

// requireNoneAborted requires that no transaction was aborted or lost and that no worker hangs.
func requireNoneAborted(t *testing.T, r poolers.Results) {
	t.Helper()
	require.Zero(t, r.Comparison.Aborted, "aborted in flight: %s", r.Errors())
	require.Zero(t, r.Comparison.Ambiguous, "ambiguous commits: %s", r.Errors())
	require.Zero(t, r.Comparison.InFlight, "in flight forever")
	require.Zero(t, r.Inconsistent(), "lost or repeated: %+v", r.Comparison)
	require.Empty(t, r.Hanging, r.Errors())
}

// careful are the flags of four worker groups: two do nothing about their connections, one recycles and one validates them.
var careful = [][]string{nil, {"-recycle=1s"}, nil, {"-validate"}}

// connect returns a client of the pooler on this instance.
func (p *fixture) connect(i env.Instance) *pgconn.PgConn {
	p.Helper()
	pods, err := p.DB.PoolerPods(p.ctx)
	require.NoError(p, err)
	at := slices.IndexFunc(pods, func(pod corev1.Pod) bool { return pod.Spec.NodeName == i.Node })
	client, err := pgconn.Connect(p.ctx, fmt.Sprintf("postgres://worker:worker@%s:%d/postgres?sslmode=disable", pods[at].Status.PodIP, database.Port))
	require.NoError(p, err)
	return client
}

func (p *fixture) execute(client *pgconn.PgConn, sql string) {
	if _, err := client.Exec(p.ctx, sql).ReadAll(); err != nil {
		p.Errorf("%s: %v", sql, err)
	}
}

// blackHole drops the function's packets to the target's poolers, and no others.
func (p *fixture) blackHole() {
	p.Helper()
	p.inside("nft add table inet hole; nft 'add chain inet hole f {type filter hook forward priority 0; }'; "+
		"nft add rule inet hole f ip saddr %s tcp dport 6432 drop", p.Lab.HostIP())
}

// inside runs a shell command on the target's node.
func (p *fixture) inside(format string, args ...any) {
	p.Helper()
	require.NoError(p, p.tryInside(fmt.Sprintf(format, args...)))
}

func (p *fixture) tryInside(script string) error {
	cmd, err := p.Lab.Inside(p.ctx, p.Target.Node, "sh", "-c", script)
	if err != nil {
		return err
	}
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}

func (p *fixture) addNetworkPolicy() {
	p.Helper()
	_, err := p.Lab.Client().NetworkingV1().NetworkPolicies(p.Name).Create(p.ctx, &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "poolers"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: database.PoolerLabels},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{}},
		},
	}, metav1.CreateOptions{})
	require.NoError(p, err)
}

// cordonOtherNodes keeps replacements of the poolers pending.
func (p *fixture) cordonOtherNodes() {
	p.Helper()
	for _, i := range p.Nodes {
		if i != p.Target {
			_, err := p.Lab.Kubectl(p.ctx, "cordon", i.Node)
			require.NoError(p, err)
		}
	}
}

// startWith starts a function with a complete configuration.
func (p *fixture) startWith(configuration string) *env.Function {
	p.Helper()
	function, err := p.Function(context.Background(), configuration)
	require.NoError(p, err)
	p.Cleanup(func() { require.NoError(p, function.Close()) })
	return function
}

// rotate changes the password of the poolers' admin: in the Secrets, and in the poolers once their kubelet has updated the
// volume. A terminating pod gets no update.
func (p *fixture) rotate(password string) {
	p.Helper()
	_, err := p.Lab.Kubectl(p.ctx, "--namespace", p.Name, "patch", "secret", "pgbouncer", "--type=merge", "-p",
		fmt.Sprintf(`{"stringData":{"userlist.txt":"\"%s\" \"%s\"\n\"worker\" \"worker\"\n"}}`, database.AdminUser, password))
	require.NoError(p, err)
	_, err = p.Lab.Kubectl(p.ctx, "--namespace", p.Name, "patch", "secret", "pgbouncer-admin", "--type=merge", "-p",
		fmt.Sprintf(`{"stringData":{"password":"%s"}}`, password))
	require.NoError(p, err)
	p.awaitPassword(password)
}

// awaitPassword waits until a pooler's volume has the password, and lets the poolers read it.
func (p *fixture) awaitPassword(password string) {
	p.Helper()
	look := fmt.Sprintf(`for pid in $(pgrep -x pgbouncer); do grep -q %q /proc/$pid/root/etc/pgbouncer/userlist.txt && exec pkill -HUP -x pgbouncer; done; exit 1`, password)
	require.Eventually(p, func() bool {
		// The kubelet syncs a changed pod at once, with its volumes. It may not know the new Secret yet.
		_, err := p.Lab.Kubectl(p.ctx, "--namespace", p.Name, "annotate", "--overwrite", "pods", "--selector",
			database.PoolerLabels.String(), fmt.Sprintf("look=%d", time.Now().UnixNano()))
		return err == nil && p.tryInside(look) == nil
	}, waitTimeout, time.Second)
}

// killAt invokes the function and kills it as soon as it has logged the step. An invocation that was faster has a report.
func (p *fixture) killAt(step string, event []byte) (report termination.Report, ended bool) {
	p.Helper()
	done := make(chan runtimeapi.Result, 1)
	go func() { result, _ := p.function.Invoke(p.ctx, event); done <- result }()
	p.awaitLog(step)
	p.function.Kill()
	result := <-done
	if ended = result.ErrorType == "" && len(result.Payload) > 0; ended {
		require.NoError(p, json.Unmarshal(result.Payload, &report))
	}
	return report, ended
}

// awaitLog waits until the function has logged the text.
func (p *fixture) awaitLog(text string) {
	p.Helper()
	require.Eventually(p, func() bool { return strings.Contains(p.function.Output(), text) }, waitTimeout, 5*time.Millisecond, text)
}

// requireNoLabelElsewhere requires that no pooler on another node has the escort's label.
func (p *fixture) requireNoLabelElsewhere() {
	p.Helper()
	pods, err := p.DB.PoolerPods(p.ctx) // the list selects by label: a pod without its labels is missing
	require.NoError(p, err)
	for _, pod := range pods {
		if pod.Spec.NodeName != p.Target.Node {
			require.NotContains(p, pod.Labels, drain.EscortLabel)
		}
	}
}

// escortDetails returns what a report says about escorts that did not go as planned.
func escortDetails(r termination.Report) (all string) {
	for _, p := range r.Pods {
		if p.Escort != nil {
			all += p.Escort.AbortedDetail + p.Escort.Reason
		}
	}
	return all
}

// redeliver sends the event again until no other invocation drains the instance, as a queue would.
func (p *fixture) redeliver(event []byte) termination.Report {
	p.Helper()
	for {
		result, err := p.function.Invoke(p.ctx, event)
		require.NoError(p, err)
		var report termination.Report
		require.Empty(p, result.ErrorType, result.ErrorMessage)
		require.NoError(p, json.Unmarshal(result.Payload, &report))
		if report.Status != termination.StatusSkipped {
			return report
		}
		require.NoError(p, poolers.Wait(p.ctx, 500*time.Millisecond))
	}
}
