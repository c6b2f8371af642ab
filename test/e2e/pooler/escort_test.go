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
	"quiesce/test/env/pooltest"
	"quiesce/test/parts/lab"
)

// patience bounds every wait of these tests: far beyond what any needs, so that only a real hang meets it.
const patience = 2 * time.Minute

// lifetime bounds a whole trial, most of which is setting it up where eight share two cores.
const lifetime = 10 * time.Minute

// hangsAfter is when a worker whose transaction takes 30 ms is said to hang.
const hangsAfter = 5 * time.Second

// poolers is a test's trial.
type poolers struct {
	*testing.T
	*pooltest.Trial
	ctx      context.Context
	function *env.Function
}

// setPoolers sets a trial up, and a function with these settings of its escort beside the credentials.
func setPoolers(t *testing.T, o pooltest.Options, settings ...string) *poolers {
	t.Helper()
	lab.RequireMachines(t)
	require.NoError(t, sharedErr)
	t.Parallel()
	enter(t, cmp.Or(o.Crews, pooltest.DefaultCrews))
	ctx, cancel := context.WithTimeout(context.Background(), lifetime)
	t.Cleanup(cancel)
	o.Name = fmt.Sprintf("poolers-%d", trials.Add(1))
	set, err := pooltest.SetUp(ctx, shared, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, set.TearDown(context.WithoutCancel(ctx))) })
	p := &poolers{T: t, Trial: set, ctx: ctx}
	t.Cleanup(p.describe)
	p.function = p.newFunction(append([]string{p.Credentials()}, settings...)...)
	return p
}

// describe helps whoever wants to know why a test failed: a pooler that was restarted, by its probe say, was not by us.
func (p *poolers) describe() {
	if p.Failed() {
		pods, err := p.DB.PoolerPods(context.WithoutCancel(p.ctx))
		p.Logf("the poolers at the end: %s %v", database.Describe(pods), err)
	}
}

func (p *poolers) newFunction(settings ...string) *env.Function {
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

// drain has the victim's termination drained and its machine vanish.
func (p *poolers) drain() termination.Report {
	p.Helper()
	require.NoError(p, p.Forget(p.ctx))
	report, err := p.Drain(p.ctx, p.function, p.Victim)
	require.NoError(p, err)
	require.NoError(p, p.Die(p.ctx, p.Victim))
	return report
}

// settle lets workers show whether they hang, and compares the books.
func (p *poolers) settle() pooltest.Books {
	p.Helper()
	require.NoError(p, pooltest.Wait(p.ctx, hangsAfter+time.Second))
	books, err := p.Settle(p.ctx, hangsAfter)
	require.NoError(p, err)
	return books
}

// plan asks what would be done about the victim.
func (p *poolers) plan() (report termination.Report) {
	p.Helper()
	result, err := p.function.Invoke(p.ctx, fmt.Appendf(nil, `{"action":"plan","instanceId":%q}`, p.Victim.ID))
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
	require.Fail(t, "no pooler was escorted", "%+v", r)
	return drain.PodReport{}
}

// requireNothingCut: no transaction was cut, none lost, nobody hangs.
func requireNothingCut(t *testing.T, b pooltest.Books) {
	t.Helper()
	require.Zero(t, b.Balance.Aborted, "aborted in flight")
	require.Zero(t, b.Balance.Ambiguous, "ambiguous commits")
	require.Zero(t, b.Balance.InFlight, "in flight for ever")
	require.Zero(t, b.Amiss(), "lost or repeated: %+v", b.Balance)
	require.Empty(t, b.Hanging)
}

// careful are crews of which half take no care of their connections, a quarter recycles and a quarter validates them.
var careful = [][]string{nil, {"-recycle=1s"}, nil, {"-validate"}}

// With surge, or with the preStop hook that README recommends, new connections have time to go elsewhere: workers that leave by
// themselves, or look before they begin, see no error at all. What looks before it begins is blind for one round trip in forty:
// one such error is chance.
func TestNoTransactionIsCutWhenAPoolersNodeGoes(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.18", "1.24"} {
		for _, strategy := range []string{"evict", "surge"} {
			t.Run(version+" "+strategy, func(t *testing.T) {
				o := pooltest.Options{Poolers: database.Options{Version: version}, Flags: careful}
				if strategy == "evict" {
					o.Poolers.PreStop, o.Poolers.Grace = database.Recommended[version], 60
				}
				p := setPoolers(t, o, "strategy: "+strategy)
				report := p.drain()
				require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
				escort := poolerOf(t, report).Escort
				require.Equal(t, strategy, escort.Strategy, "%+v", escort)
				require.True(t, strings.HasPrefix(escort.Version, version), escort.Version)
				require.Positive(t, escort.Clients)
				require.Empty(t, escort.AbortedDetail)
				books := p.settle()
				requireNothingCut(t, books)
				require.LessOrEqual(t, books.ClosedOnCareful(), 1, "errors at BEGIN")
				require.Zero(t, books.Refused(), "connects refused")
			})
		}
	}
}

// The others wait for less than the straggler takes: how much less is make bench-pgbouncer's to say, on a machine that does
// nothing else.
func TestAStragglerCommitsAndHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.18", "1.24"} {
		t.Run(version, func(t *testing.T) {
			p := setPoolers(t, pooltest.Options{
				Crews: 2, Poolers: database.Options{Version: version}, First: []string{"-straggler=4s"},
			}, "strategy: evict")
			report := p.drain()
			require.Empty(t, poolerOf(t, report).Escort.AbortedDetail)
			books := p.settle()
			requireNothingCut(t, books)
			for _, w := range books.Workers {
				if w.Pace < time.Second {
					require.Less(t, w.LongestStall-w.Pace, 4*time.Second, "worker %d", w.Worker)
				}
			}
		})
	}
}

// A single pooler under a budget that can never allow an eviction blocks every other drainer until its time is up. One of the two
// consoles is reached over the API server.
func TestASinglePoolerUnderABudgetOfNoneIsReplacedFirst(t *testing.T) {
	t.Parallel()
	for version, via := range map[string]string{"1.18": "podIP", "1.24": "portForward"} {
		t.Run(version, func(t *testing.T) {
			p := setPoolers(t, pooltest.Options{Crews: 2, Poolers: database.Options{Version: version, Poolers: 1, MaxUnavailable: "0"}}, "connectVia: "+via)
			require.NotEmpty(t, poolerOf(t, p.plan()).Warnings)
			report := p.drain()
			require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
			require.Equal(t, "surge", poolerOf(t, report).Escort.Strategy)
			books := p.settle()
			requireNothingCut(t, books)
			require.Zero(t, books.Refused())
		})
	}
}

// A DaemonSet's pooler cannot move, and serves whoever is left on its node: it is stopped last, and lets go when the last
// transaction has ended.
func TestADaemonSetsPoolerIsStoppedLastAndFinishesItsTransactions(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.18", "1.24"} {
		t.Run(version, func(t *testing.T) {
			p := setPoolers(t, pooltest.Options{Crews: 1, Poolers: database.Options{Version: version, Daemon: true}})
			client := p.connect(p.Victim)
			p.execute(client, "BEGIN")
			committed := make(chan time.Time, 1)
			go func() {
				p.execute(client, "SELECT pg_sleep(3)")
				p.execute(client, "COMMIT")
				committed <- time.Now()
			}()
			report := p.drain()
			require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
			require.False(t, report.FinishedAt.Before(<-committed))
			pooler := poolerOf(t, report)
			require.Equal(t, drain.Remained, pooler.Outcome)
			require.Equal(t, "shutdown", pooler.Escort.Strategy, "%+v", pooler.Escort)
			require.Empty(t, pooler.Escort.AbortedDetail)
			require.Positive(t, pooler.Escort.Transactions)
			books, err := p.Settle(p.ctx, hangsAfter)
			require.NoError(t, err)
			require.Zero(t, books.Balance.Aborted+books.Balance.Ambiguous, "%+v", books.Balance)
		})
	}
}

// connect is a client of the pooler on this instance.
func (p *poolers) connect(i env.Instance) *pgconn.PgConn {
	p.Helper()
	pods, err := p.DB.PoolerPods(p.ctx)
	require.NoError(p, err)
	at := slices.IndexFunc(pods, func(pod corev1.Pod) bool { return pod.Spec.NodeName == i.Node })
	client, err := pgconn.Connect(p.ctx, fmt.Sprintf("postgres://worker:worker@%s:%d/postgres?sslmode=disable", pods[at].Status.PodIP, database.Port))
	require.NoError(p, err)
	return client
}

func (p *poolers) execute(client *pgconn.PgConn, sql string) {
	if _, err := client.Exec(p.ctx, sql).ReadAll(); err != nil {
		p.Errorf("%s: %v", sql, err)
	}
}

// Where the budget has the last word until time runs out, the pooler is deleted then; but as well seen out as any.
func TestAPoolerThatItsBudgetNeverLetsGoIsSeenOutBeforeTheDeadline(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.18", "1.24"} {
		t.Run(version, func(t *testing.T) {
			p := setPoolers(t, pooltest.Options{Crews: 2, Poolers: database.Options{Version: version, MaxUnavailable: "0"}})
			p.function = p.startWith(p.Configuration(p.Credentials(), "strategy: evict", "timeout: 20s") +
				"drain: {maxDuration: 80s, completionReserve: 5s, nodeJoinTimeout: 1s, volumeDetachTimeout: 1s}\n")
			report := p.drain()
			require.Equal(t, termination.StatusForced, report.Status, "%+v", report)
			pooler := poolerOf(t, report)
			require.Equal(t, drain.Forced, pooler.Outcome)
			require.Contains(t, pooler.Reason, "deadline: deleted with ")
			require.Contains(t, pooler.Reason, "blocked by ")
			require.NotEmpty(t, pooler.BlockedBy)
			require.Equal(t, "evict", pooler.Escort.Strategy, "%+v", pooler.Escort)
			require.Empty(t, pooler.Escort.AbortedDetail)
			requireNothingCut(t, p.settle())
		})
	}
}

func TestTwoNodesWithOnePoolerEachAreDrainedOneAfterTheOther(t *testing.T) {
	p := setPoolers(t, pooltest.Options{Crews: 2, Poolers: database.Options{Version: "1.24"}}, "strategy: evict")
	pods, err := p.DB.PoolerPods(p.ctx)
	require.NoError(t, err)
	other := p.Pool[0]
	for _, i := range p.Pool {
		if i != p.Victim && (pods[0].Spec.NodeName == i.Node || pods[1].Spec.NodeName == i.Node) {
			other = i
		}
	}
	second := p.newFunction(p.Credentials(), "strategy: evict")
	reports := make(chan termination.Report, 1)
	go func() {
		report, err := p.Drain(p.ctx, second, other)
		if err != nil {
			t.Error(err)
		}
		reports <- report
	}()
	first, err := p.Drain(p.ctx, p.function, p.Victim)
	require.NoError(t, err)
	later := <-reports
	require.NoError(t, p.Die(p.ctx, p.Victim))
	require.NoError(t, p.Die(p.ctx, other))
	a, b := poolerOf(t, first), poolerOf(t, later)
	if a.EvictedAt.After(b.EvictedAt) {
		a, b = b, a
	}
	require.False(t, b.EvictedAt.Before(a.GoneAt), "%s was stopped at %s while %s went until %s", b.Name, b.EvictedAt, a.Name, a.GoneAt)
	books := p.settle()
	requireNothingCut(t, books)
}

// Consoles that are of no help: the pooler is then evicted as any pod is, without delay, and the report says why.
func TestWithoutAConsoleThePoolerIsEvictedPlainlyAndTheReportSaysWhy(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		authType string
		settings func(*poolers) []string
		before   func(*poolers)
	}{
		"no credentials": {settings: func(*poolers) []string { return []string{"strategy: evict"} }},
		"wrong credentials": {settings: func(p *poolers) []string {
			return []string{p.Credentials()[:len(p.Credentials())-1] + ", passwordKey: username}"}
		}},
		"nobody listening":     {settings: func(p *poolers) []string { return []string{p.Credentials(), "port: 6433"} }},
		"a cleartext password": {authType: "plain", settings: func(p *poolers) []string { return []string{p.Credentials()} }},
		"a black hole":         {settings: func(p *poolers) []string { return []string{p.Credentials()} }, before: (*poolers).blackHole},
	} {
		t.Run(what, func(t *testing.T) {
			p := setPoolers(t, pooltest.Options{Crews: 1, Poolers: database.Options{Version: "1.24", AuthType: c.authType, Grace: 5}})
			p.function = p.newFunction(c.settings(p)...)
			if c.before != nil {
				c.before(p)
			}
			report := p.drain()
			require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
			pooler := poolerOf(t, report)
			require.Equal(t, "plain", pooler.Escort.Strategy, "%+v", pooler.Escort)
			require.NotEmpty(t, pooler.Escort.Reason)
			require.NotContains(t, p.function.Output(), database.AdminPassword)
			require.Less(t, pooler.GoneAt.Sub(report.StartedAt), 60*time.Second)
		})
	}
}

// blackHole swallows what the function says to the victim's poolers, and nothing else.
func (p *poolers) blackHole() {
	p.Helper()
	p.inside("nft add table inet hole; nft 'add chain inet hole f {type filter hook forward priority 0; }'; "+
		"nft add rule inet hole f ip saddr %s tcp dport 6432 drop", p.Lab.HostIP())
}

// inside runs a shell command on the victim's machine.
func (p *poolers) inside(format string, args ...any) {
	p.Helper()
	cmd, err := p.Lab.Inside(p.ctx, p.Victim.Node, "sh", "-c", fmt.Sprintf(format, args...))
	require.NoError(p, err)
	output, err := cmd.CombinedOutput()
	require.NoError(p, err, "%s", output)
}

// What a surge cannot do it does not begin, or takes back: the pooler is then seen out by evict.
func TestASurgeThatCannotBeFallsBackToEvictAndTakesBackWhatItChanged(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		before func(*poolers)
		reason string
	}{
		"a network policy selects on the label": {(*poolers).police, "network policy"},
		"no replacement comes":                  {(*poolers).closeTheRest, "no replacement"},
	} {
		t.Run(what, func(t *testing.T) {
			p := setPoolers(t, pooltest.Options{Crews: 2, Poolers: database.Options{Version: "1.24"}})
			p.function = p.startWith(strings.Replace(p.Configuration(p.Credentials(), "strategy: surge"), "  - name: poolers\n", "  - name: poolers\n    timeout: 5s\n", 1))
			c.before(p)
			report := p.drain()
			require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
			escort := poolerOf(t, report).Escort
			require.Equal(t, "evict", escort.Strategy, "%+v", escort)
			require.Contains(t, strings.ToLower(escort.Reason), c.reason)
			p.requireNoMarkElsewhere()
			requireNothingCut(t, p.settle())
		})
	}
}

func (p *poolers) police() {
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

// closeTheRest leaves no node for a replacement.
func (p *poolers) closeTheRest() {
	p.Helper()
	for _, i := range p.Pool {
		if i != p.Victim {
			_, err := p.Lab.Kubectl(p.ctx, "cordon", i.Node)
			require.NoError(p, err)
		}
	}
}

// startWith starts a function with a whole configuration.
func (p *poolers) startWith(configuration string) *env.Function {
	p.Helper()
	function, err := p.Function(context.Background(), configuration)
	require.NoError(p, err)
	p.Cleanup(func() { require.NoError(p, function.Close()) })
	return function
}

// Both poolers are on the node that goes. While the first is seen out, their admin gets another password, in the Secret and in
// the second pooler: the console of the first is open and stays so, the second is opened with what is right by then.
func TestARotationInTheMiddleOfADrainBreaksNothing(t *testing.T) {
	p := setPoolers(t, pooltest.Options{
		Crews: 1, Poolers: database.Options{Version: "1.24", Together: true, PreStop: "sleep 12", Grace: 60},
	}, "strategy: evict")
	ended := make(chan termination.Report, 1)
	go func() {
		report, err := p.Drain(p.ctx, p.function, p.Victim)
		if err != nil {
			t.Error(err)
		}
		ended <- report
	}()
	p.logged("pooler evicted")
	p.rotate("a new console password")
	report := <-ended
	require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
	escorted := 0
	for _, pod := range report.Pods {
		if pod.Escort != nil {
			require.Equal(t, "evict", pod.Escort.Strategy, "%+v", pod)
			escorted++
		}
	}
	require.Equal(t, 2, escorted)
	require.NotContains(t, p.function.Output(), "a new console password")
	require.NoError(t, p.Die(p.ctx, p.Victim))
}

// rotate gives the poolers' admin another password: in the Secrets, and in the poolers as soon as their kubelet has brought it,
// which it does not to one that is terminating.
func (p *poolers) rotate(password string) {
	p.Helper()
	_, err := p.Lab.Kubectl(p.ctx, "--namespace", p.Name, "patch", "secret", "pgbouncer", "--type=merge", "-p",
		fmt.Sprintf(`{"stringData":{"userlist.txt":"\"%s\" \"%s\"\n\"worker\" \"worker\"\n"}}`, database.AdminUser, password))
	require.NoError(p, err)
	_, err = p.Lab.Kubectl(p.ctx, "--namespace", p.Name, "patch", "secret", "pgbouncer-admin", "--type=merge", "-p",
		fmt.Sprintf(`{"stringData":{"password":"%s"}}`, password))
	require.NoError(p, err)
	_, err = p.Lab.Kubectl(p.ctx, "--namespace", p.Name, "annotate", "pods", "--selector", database.PoolerLabels.String(), "look=again")
	require.NoError(p, err) // a changed pod is looked at at once, and its volumes with it
	p.inside(`for i in $(seq 100); do
		n=0; for pid in $(pgrep -x pgbouncer); do grep -q %q /proc/$pid/root/etc/pgbouncer/userlist.txt && n=$((n + 1)); done
		[ $n -ge 1 ] && break; sleep 0.1; done; [ $n -ge 1 ] && pkill -HUP -x pgbouncer`, password)
}

// A frozen pooler answers nothing and dies at its grace: plainly, and no later than that.
func TestAFrozenPoolerCostsNoMoreThanItsGrace(t *testing.T) {
	p := setPoolers(t, pooltest.Options{Crews: 1, Poolers: database.Options{Version: "1.24", Grace: 5}})
	p.inside("pkill -STOP pgbouncer")
	report := p.drain()
	require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
	require.Equal(t, "plain", poolerOf(t, report).Escort.Strategy)
}

func TestSessionsAreCutBetweenTransactionsAndInTime(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.18", "1.24"} {
		t.Run(version, func(t *testing.T) {
			p := setPoolers(t, pooltest.Options{
				Crews: 2, Poolers: database.Options{Version: version, PoolMode: "session", PreStop: database.Recommended[version], Grace: 60},
			}, "strategy: evict")
			report := p.drain()
			require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
			pooler := poolerOf(t, report)
			require.Empty(t, pooler.Escort.AbortedDetail, "%+v", pooler.Escort)
			require.Less(t, pooler.GoneAt.Sub(report.StartedAt), 75*time.Second)
			requireNothingCut(t, p.settle())
		})
	}
}

func TestATransactionLongerThanTheEscortIsCutAndTheReportSaysSo(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.18", "1.24"} {
		t.Run(version, func(t *testing.T) {
			p := setPoolers(t, pooltest.Options{
				Crews: 1, First: []string{"-straggler=5m"}, Poolers: database.Options{Version: version, Poolers: 1, Grace: 8, MaxUnavailable: "1"},
			}, "strategy: evict", "timeout: 8s")
			report := p.drain()
			require.Equal(t, termination.StatusDrained, report.Status, "%+v", report)
			require.NotEmpty(t, poolerOf(t, report).Escort.AbortedDetail)
			require.Less(t, report.FinishedAt.Sub(report.StartedAt), 45*time.Second)
		})
	}
}

// The function is killed at every step of an escort, as its log tells them. Whatever it had done, a later invocation finishes: the
// node is drained, no pooler stays paused, no pod keeps a mark, and nobody hangs.
func TestAKilledFunctionsEscortIsFinishedByTheNext(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ version, strategy, step string }{
		{"1.18", "evict", "escort began"},
		{"1.18", "evict", "pooler paused"},
		{"1.18", "evict", "pooler evicted"},
		{"1.18", "surge", "surge begun"},
		{"1.18", "surge", "replacement is ready"},
		{"1.18", "surge", "pooler paused"},
		{"1.24", "evict", "pooler evicted"},
		{"1.24", "evict", "pooler shuts down"},
		{"1.24", "surge", "surge begun"},
		{"1.24", "surge", "replacement is ready"},
		{"1.24", "surge", "pooler shuts down"},
	} {
		t.Run(fmt.Sprint(c.version, " ", c.strategy, ", ", c.step), func(t *testing.T) {
			p := setPoolers(t, pooltest.Options{Crews: 1, Poolers: database.Options{Version: c.version}}, "strategy: "+c.strategy)
			event := p.AWS.Terminate(p.Victim.ID)[0].Body
			p.killAt(c.step, event)
			report := p.redeliver(event)
			require.Contains(t, []termination.Status{termination.StatusDrained, termination.StatusPartial}, report.Status, "%+v", report)
			require.NoError(t, p.Die(p.ctx, p.Victim))
			p.requireNoMarkElsewhere()
			require.NoError(t, p.AwaitWork(p.ctx, 20)) // everybody: nobody is stuck with a paused pooler
			books := p.settle()
			require.Empty(t, books.Hanging)
			require.Zero(t, books.Amiss())
			if books.Cut() > 0 {
				require.NotEmpty(t, said(report), "transactions were cut, and nobody says so: %+v", books.Balance)
			}
		})
	}
}

// killAt invokes the function and kills it as soon as its log has the step.
func (p *poolers) killAt(step string, event []byte) {
	p.Helper()
	killed := make(chan struct{})
	go func() { defer close(killed); _, _ = p.function.Invoke(p.ctx, event) }()
	p.logged(step)
	p.function.Kill()
	<-killed
}

// logged waits until the function's log has the text.
func (p *poolers) logged(text string) {
	p.Helper()
	require.Eventually(p, func() bool { return strings.Contains(p.function.Output(), text) }, patience, 5*time.Millisecond, text)
}

// requireNoMarkElsewhere: no pooler beside the victim's has what an escort leaves on a pod.
func (p *poolers) requireNoMarkElsewhere() {
	p.Helper()
	pods, err := p.DB.PoolerPods(p.ctx) // by the label: a pod without it would not be found
	require.NoError(p, err)
	for _, pod := range pods {
		if pod.Spec.NodeName != p.Victim.Node {
			require.NotContains(p, pod.Labels, drain.EscortLabel)
		}
	}
}

// said is what a report says of an escort that did not go as it should.
func said(r termination.Report) (all string) {
	for _, p := range r.Pods {
		if p.Escort != nil {
			all += p.Escort.AbortedDetail + p.Escort.Reason
		}
	}
	return all
}

// redeliver sends the event again until it is not another's any more, as a queue would.
func (p *poolers) redeliver(event []byte) termination.Report {
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
		require.NoError(p, pooltest.Wait(p.ctx, 500*time.Millisecond))
	}
}
