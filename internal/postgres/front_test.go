package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	"quiesce/test/parts/bubble"
)

func TestHostLeads_ServiceNameOrAddress_True(t *testing.T) {
	leading := []escort.Service{{Namespace: "db", Name: "pg", Addresses: []string{"10.98.0.10", "fd00::10"}}}
	for host, want := range map[string]bool{
		"pg": true, "PG": true, "pg.db": true, "pg.db.svc": true, "pg.db.svc.cluster.local": true, "pg.db.svc.cluster.local.": true,
		"10.98.0.10": true, "fd00::10": true, "10.0.0.10": true, "other, pg": true,
		"": false, "pg.other": false, "pg.db.example.com": false, "pg-replicas": false, "10.98.0.1": false, "xpg": false, ",": false,
	} {
		require.Equal(t, want, hostLeads(host, "db", "10.0.0.10", leading), host)
	}
	require.False(t, hostLeads("pg", "web", "10.0.0.10", leading), "a short name is one of the pooler's namespace")
	require.True(t, hostLeads("pg.db", "web", "10.0.0.10", leading))
	require.False(t, hostLeads("", "db", "", leading), "a Unix socket, and a leader without an address")
}

func TestLeadsOnlyTo_ServicesOfReplicasToo_AreNot(t *testing.T) {
	require.True(t, leadsOnlyTo(escort.Service{Ready: []string{"10.0.0.10"}}, "10.0.0.10"))
	require.False(t, leadsOnlyTo(escort.Service{}, "10.0.0.10"))
	require.False(t, leadsOnlyTo(escort.Service{Ready: []string{"10.0.0.10", "10.0.0.11"}}, "10.0.0.10"))
}

// crunchyView has the Services of Crunchy's operator. The primary's is headless and leads to the ClusterIP of Patroni's. The poolers are
// the cluster's by their labels.
type crunchyView struct{ *incarnation }

func (v crunchyView) Services(ctx context.Context, namespace string) ([]escort.Service, error) {
	all, err := v.incarnation.Services(ctx, namespace)
	for i := range all {
		if all[i].Name == "pg" {
			all[i].Name = "pg-ha"
		}
	}
	return append([]escort.Service{{Namespace: namespace, Name: "pg-primary", Ready: []string{"10.98.0.10"}}}, all...), err
}

func (v crunchyView) PodsMatching(ctx context.Context, namespace string, match func(drain.Pod) bool) ([]escort.Pod, error) {
	pods, err := v.incarnation.PodsMatching(ctx, namespace, match)
	for i := range pods {
		pods[i].Labels["postgres-operator.crunchydata.com/cluster"] = "pg"
	}
	return pods, err
}

// newCrunchyWorld returns a world whose poolers lead to a host.
func newCrunchyWorld(host string) (*world, *Escort, *incarnation) {
	w := newWorld()
	for _, p := range w.poolers {
		p.databases[0].Host = host
	}
	e, i := w.escort()
	e.Connect = func(context.Context) (Cluster, error) { return crunchyView{i}, nil }
	return w, e, i
}

func TestRun_ServiceLeadsToAServiceOfThePrimary_PoolersAreHeld(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w, e, i := newCrunchyWorld("pg-primary")
		result, err, _ := w.runAs(t, e, i, "pg-0")
		require.NoError(t, err)
		require.Contains(t, result.Reason, "2 of 2 poolers held")
		require.NotContains(t, result.Reason, "the Services did not lead to the new primary")
		w.requireNothingPaused(t)
	})
}

// Its labels say that it is the cluster's, but a move would not hold its clients.
func TestRun_PoolerOfTheClusterLeadsElsewhere_IsSaid(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w, e, i := newCrunchyWorld("pg-primary-of-another-name")
		const none = "none of whose databases leads to the primary, though their labels are the cluster's: db/pooler-a, db/pooler-b"
		lines := e.Advise(t.Context(), memberPod("pg-0", "").Pod)
		require.Contains(t, lines[len(lines)-1], none)
		w.poolers["b"].databases = nil // without clients, the entry "*" has none
		result, err, _ := w.runAs(t, e, i, "pg-0")
		require.NoError(t, err)
		require.Contains(t, result.Reason, "0 of 0 poolers held")
		require.Contains(t, result.Reason, "none of whose databases leads to the primary, though their labels are the cluster's: db/pooler-a")
		require.NotContains(t, result.Reason, "pooler-b")
	})
}

func TestLeadingTo_ServicesOfServices_MustLeadNowhereElse(t *testing.T) {
	all := []escort.Service{
		{Name: "direct", Addresses: []string{"10.98.0.1", "fd00::1"}, Ready: []string{"10.0.0.10"}},
		{Name: "replicas", Addresses: []string{"10.98.0.2"}, Ready: []string{"10.0.0.10", "10.0.0.11"}},
		{Name: "through", Ready: []string{"10.98.0.1", "fd00::1"}},
		{Name: "through both", Ready: []string{"10.98.0.1", "10.98.0.2"}},
		{Name: "empty"},
	}
	var names []string
	for _, s := range leadingTo(all, "10.0.0.10") {
		names = append(names, s.Name)
	}
	require.Equal(t, []string{"direct", "through"}, names)
	require.Empty(t, leadingTo(all, ""))
}

func TestBelongs_LabelsOfOperators_SameClusterOnly(t *testing.T) {
	identity := Identity{Namespace: "db", Cluster: "pg"}
	type labels = map[string]string
	for name, c := range map[string]struct {
		labels, annotations labels
		namespace           string
		want                bool
	}{
		"Zalando":               {labels: labels{"connection-pooler": "pg-pooler", "cluster-name": "pg"}, want: true},
		"Zalando's for replica": {labels: labels{"connection-pooler": "pg-pooler-repl", "cluster-name": "pg", "spilo-role": "replica"}},
		"another cluster":       {labels: labels{"connection-pooler": "x-pooler", "cluster-name": "x"}},
		"CloudNativePG":         {labels: labels{"cnpg.io/poolerName": "pg-rw", "cnpg.io/cluster": "pg"}, want: true},
		"Crunchy":               {labels: labels{"postgres-operator.crunchydata.com/cluster": "pg"}, want: true},
		"annotated":             {annotations: labels{escort.DatabaseAnnotation: "pg"}, want: true},
		"annotated, elsewhere":  {annotations: labels{escort.DatabaseAnnotation: "db/pg"}, namespace: "web", want: true},
		"a name elsewhere":      {annotations: labels{escort.DatabaseAnnotation: "pg"}, namespace: "web"},
		"labels elsewhere":      {labels: labels{"postgres-operator.crunchydata.com/cluster": "pg"}, namespace: "web"},
		"no labels":             {},
	} {
		p := escort.Pod{}
		p.Namespace, p.Labels, p.Annotations = "db", c.labels, c.annotations
		if c.namespace != "" {
			p.Namespace = c.namespace
		}
		require.Equal(t, c.want, belongs(p, identity), name)
	}
}

func TestReadMark_NotOurs_IsAnError(t *testing.T) {
	good := mark{Namespace: "db", Cluster: "pg", Poolers: []markedPooler{{refOf("a"), []string{"app"}, "15"}}}
	read, err := readMark(good.text())
	require.NoError(t, err)
	require.Equal(t, good, *read)
	many := mark{Poolers: []markedPooler{{refOf("a"), make([]string, maxDatabases+1), ""}}}
	nameless := mark{Poolers: []markedPooler{{Databases: []string{"app"}}}}
	for _, text := range []string{"", "no", "[]", `{"poolers": 1}`, many.text(), nameless.text(), mark{Poolers: make([]markedPooler, maxPoolers+1)}.text()} {
		_, err := readMark(text)
		require.ErrorIs(t, err, errMark, text)
	}
}

// failingConsoles cannot be opened where fail says so. It is told how often that pooler's console was asked for before.
type failingConsoles struct {
	*incarnation
	opened map[string]int
	fail   func(pooler string, opened int) error
}

func (c failingConsoles) Open(ctx context.Context, p escort.Pod) (Console, error) {
	leave := c.enter()
	n := c.opened[p.Name]
	c.opened[p.Name]++
	leave()
	if err := c.fail(p.Name, n); err != nil {
		return nil, err
	}
	return c.incarnation.Open(ctx, p)
}

// A console fails for a moment between the two looks. Its clients would meet the switchover, so the next run tries again.
func TestRun_ConsoleFailsAtTheSecondLook_HeldUntilTheNextRun(t *testing.T) {
	for reason, failure := range map[string]error{
		"console unreachable":     pgbouncer.ErrUnreachable,
		"login refused":           pgbouncer.ErrRefused,
		"it is paused meanwhile":  nil,
		"lead to the primary any": nil,
	} {
		t.Run(reason, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				e, i := w.escort()
				e.Consoles = failingConsoles{i, map[string]int{}, func(pooler string, opened int) error {
					if pooler != "pooler-b" || opened != 1 {
						return nil
					}
					defer i.enter()()
					switch reason {
					case "it is paused meanwhile":
						i.poolers["b"].databases[0].Paused = true
					case "lead to the primary any":
						i.poolers["b"].databases[0].Host = "elsewhere"
					}
					return failure
				}}
				_, err, _ := w.runAs(t, e, i, "pg-0")
				if reason == "it is paused meanwhile" {
					requireHeld(t, err, "another administrator has paused database app of pooler db/pooler-b")
				} else {
					requireHeld(t, err, "clients of pooler db/pooler-b could be held a moment ago, and cannot now: ")
					requireHeld(t, err, reason)
				}
				held, _ := errors.AsType[*drain.Held](err)
				require.Zero(t, held.After, "no client waited")
				require.Empty(t, w.effects)
				if failure == nil {
					return
				}
				_, err, _ = w.runAs(t, e, i, "pg-0")
				require.NoError(t, err)
				require.Contains(t, w.effects, "pause b/app")
				w.requireNothingPaused(t)
			})
		})
	}
}

// At the end of the drain's time, there is no next run. And a pooler that is gone has no clients.
func TestRun_PoolerNotHeldAtTheSecondLook_MovesIfNothingIsLost(t *testing.T) {
	for name, last := range map[string]bool{"time is over": true, "gone": false} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				e, i := w.escort()
				e.Consoles = failingConsoles{i, map[string]int{}, func(pooler string, opened int) error {
					if pooler == "pooler-a" && opened == 0 && !last {
						w.locked(35*time.Millisecond, func() { w.poolers["b"].gone = true })
					}
					if pooler == "pooler-b" && opened == 1 {
						return pgbouncer.ErrUnreachable
					}
					return nil
				}}
				if !last {
					i.pace = 10 * time.Millisecond
				}
				result, err, _ := w.runAs(t, e, i, "pg-0", func(r *drain.EscortRequest) {
					if last {
						lastCall(r)
					}
				})
				require.NoError(t, err)
				require.Contains(t, result.Reason, "1 of 1 poolers held")
				require.Equal(t, []string{"pause a/app"}, w.order("pause"))
			})
		})
	}
}

// Labels say that the pooler is in front, and its console does not answer. One where nothing listens has none.
func TestRun_ConsoleOfAPoolerInFrontDoesNotAnswer_Held(t *testing.T) {
	refused := &os.SyscallError{Syscall: "connect", Err: syscall.ECONNREFUSED}
	for name, c := range map[string]struct {
		failure           error
		unknown, notReady bool
		reason            string // empty: the primary moves
	}{
		"unreachable":          {failure: pgbouncer.ErrUnreachable, reason: "the console of pooler db/pooler-b does not answer: no console: console unreachable"},
		"a timeout":            {failure: context.DeadlineExceeded, reason: "the console of pooler db/pooler-b does not answer"},
		"no permission":        {failure: fmt.Errorf("%w: %w", pgbouncer.ErrUnreachable, escort.ErrForbidden)},
		"nothing listens":      {failure: fmt.Errorf("%w: %w", pgbouncer.ErrUnreachable, refused)},
		"API server refuses":   {failure: fmt.Errorf("get secret: %w", escort.Temporary{Err: refused}), reason: "the console of pooler db/pooler-b does not answer"},
		"no login":             {failure: escort.ErrNoLogin},
		"refused":              {failure: pgbouncer.ErrRefused},
		"another program":      {failure: pgbouncer.ErrNotPgbouncer},
		"not Ready":            {failure: pgbouncer.ErrUnreachable, notReady: true},
		"perhaps not in front": {failure: pgbouncer.ErrUnreachable, unknown: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				e, i := w.escort()
				e.Connect = func(context.Context) (Cluster, error) {
					return podsOf{i, func(p *escort.Pod) {
						if p.Name == "pooler-b" {
							p.Ready = !c.notReady
							if !c.unknown {
								p.Annotations = map[string]string{escort.DatabaseAnnotation: "pg"}
							}
						}
					}}, nil
				}
				e.Consoles = failingConsoles{i, map[string]int{}, func(pooler string, _ int) error {
					if pooler == "pooler-b" {
						return c.failure
					}
					return nil
				}}
				requireHeldUntilLastCall(t, w, e, i, c.reason)
				require.Equal(t, []string{"pause a/app"}, w.order("pause"))
			})
		})
	}
}

// podsOf is a cluster with other pods.
type podsOf struct {
	*incarnation
	change func(*escort.Pod)
}

func (c podsOf) PodsMatching(ctx context.Context, namespace string, match func(drain.Pod) bool) ([]escort.Pod, error) {
	pods, err := c.incarnation.PodsMatching(ctx, namespace, func(drain.Pod) bool { return true })
	for i := range pods {
		c.change(&pods[i])
	}
	return slices.DeleteFunc(pods, func(p escort.Pod) bool { return !match(p.Pod) }), err
}

// CloudNativePG can lose what clients of any pooler in front write. One that does not answer may be in front.
func TestRun_CNPGConsoleDoesNotAnswer_HeldThoughNothingSaysWhereItLeads(t *testing.T) {
	for failure, held := range map[error]bool{pgbouncer.ErrUnreachable: true, pgbouncer.ErrRefused: false} {
		t.Run(failure.Error(), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				c := newCNPGWorld()
				e, v := c.view()
				e.Consoles = failingConsoles{v.incarnation, map[string]int{}, func(pooler string, _ int) error {
					if pooler == "pooler-b" {
						return failure
					}
					return nil
				}}
				_, err, _ := c.runAs(t, e, v.incarnation, "pg-0", c.watchEviction)
				if !held {
					require.NoError(t, err)
					return
				}
				requireHeld(t, err, "clients of pooler db/pooler-b cannot be held, and CloudNativePG can lose what they write")
				require.Empty(t, c.effects)
			})
		})
	}
}

// A client of a pooler with the entry "*" makes databases by naming them, without a login. The move pauses the others, and leaves no mark.
func TestRun_DatabasesThatNoCommandCanName_AreLeftOut(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		for _, name := range []string{`a"b`, "a;b", "a\nb"} {
			w.poolers["b"].databases = append(w.poolers["b"].databases, PoolerDatabase{Name: name, Host: "pg"})
		}
		result, err, _ := w.run(t, "pg-0")
		require.NoError(t, err)
		require.Contains(t, result.Reason, "2 of 2 poolers held; pooler db/pooler-b: its databases whose names no command can have are not paused: "+
			`a"b, a;b, a b`)
		require.Equal(t, []string{"pause a/app", "pause b/app"}, slices.Sorted(slices.Values(w.order("pause"))))
		w.requireNothingPaused(t)
	})
}

// The operator chooses the new primary before the old one has stopped. What a client writes meanwhile may be lost.
func TestRun_CNPGDatabaseCannotBePaused_Held(t *testing.T) {
	many := []PoolerDatabase{}
	for n := range maxDatabases {
		many = append(many, PoolerDatabase{Name: fmt.Sprint("app-", n), Host: "pg"})
	}
	for name, c := range map[string]struct {
		databases []PoolerDatabase
		held      string // empty: the primary moves
	}{
		"its name cannot be written":             {[]PoolerDatabase{{Name: `a"b`, Host: "pg", InUse: true}}, "are not paused: a\"b"},
		"its name cannot be written, unused":     {[]PoolerDatabase{{Name: `a"b`, Host: "pg"}}, ""},
		"too many, and some are without clients": {many, "databases without clients are not paused"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newCNPGWorld()
				w.poolers["b"].databases = append(w.poolers["b"].databases, c.databases...)
				e, v := w.view()
				_, err, _ := w.runAs(t, e, v.incarnation, "pg-0", w.watchEviction)
				if c.held == "" {
					require.NoError(t, err)
					return
				}
				requireHeld(t, err, "CloudNativePG can lose what clients of pooler db/pooler-b write during its switchover: ")
				requireHeld(t, err, c.held)
				require.Empty(t, w.effects)
			})
		})
	}
}

// A mark from before such names were left out is cleared.
func TestResume_MarkNamesADatabaseThatNoCommandCanName_IsCleared(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		w.leases[testCluster] = &worldLease{mark: interruptedMark(markedDatabase("a", `a"b`, "app")).text()}
		w.pauseLate("a")
		e, _ := w.escort()
		resumed, _, err := e.Resume(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"db/pg"}, resumed)
		w.requireResumed(t)
	})
}

// Databases without clients do not keep those with clients from being paused.
func TestRun_TooManyDatabases_ThoseWithoutClientsAreLeftOutFirst(t *testing.T) {
	for used, want := range map[int]string{ // how many of the others have clients
		0:            "2 of 2 poolers held; pooler db/pooler-b: 8 databases without clients are not paused, because more than 32 lead to the primary",
		maxDatabases: "1 of 2 poolers held; pooler db/pooler-b not held: more than 32 of its databases lead to the primary",
	} {
		bubble.Test(t, func(t *testing.T) {
			w := newWorld()
			b := w.poolers["b"]
			b.databases = nil
			for n := range maxDatabases + 7 {
				b.databases = append(b.databases, PoolerDatabase{Name: fmt.Sprintf("a%d", n), Host: "pg", InUse: n < used})
			}
			b.databases = append(b.databases, PoolerDatabase{Name: "real", Host: "pg", InUse: true}, PoolerDatabase{Name: Alias, Host: "pg"})
			result, err, _ := w.run(t, "pg-0")
			require.NoError(t, err)
			require.Contains(t, result.Reason, want)
			require.Equal(t, used == 0, slices.Contains(w.effects, "pause b/real"))
			w.requireNothingPaused(t)
		})
	}
}

// A rollout stops a pooler. Its hook runs, or its clients have not disconnected yet.
func TestRun_PoolerIsStopping_HeldWhileItServes(t *testing.T) {
	const reason = "pooler db/pooler-b is stopping, and may have its clients until it is gone"
	for name, c := range map[string]struct {
		change  func(*world)
		process string
		stopsIn time.Duration
		late    bool   // it stops after the first look, and its console with it
		reason  string // empty: the primary moves
	}{
		"serving":               {process: "1", stopsIn: time.Minute, reason: reason},
		"serving another":       {process: "1", stopsIn: time.Minute, change: func(w *world) { w.poolers["b"].databases[0].Host = "elsewhere" }},
		"its container ended":   {stopsIn: time.Minute},
		"its time is over":      {process: "1"},
		"without a console":     {process: "1", stopsIn: time.Minute, change: func(w *world) { w.poolers["b"].noConsole = true }},
		"its clients were held": {process: "1", stopsIn: time.Minute, late: true, reason: "clients of pooler db/pooler-b could be held a moment ago"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				if c.change != nil {
					c.change(w)
				}
				looks := 0
				e, i := w.escort()
				e.Connect = func(context.Context) (Cluster, error) {
					return podsOf{i, func(p *escort.Pod) {
						if p.Name != "pooler-b" {
							return
						}
						if looks++; !c.late || looks > 1 {
							w.poolers["b"].noConsole = w.poolers["b"].noConsole || c.late
							p.Deleted, p.StopsBy = time.Now(), time.Now().Add(c.stopsIn)
							p.Containers = []escort.Container{{Name: "pgbouncer", Process: c.process}}
						}
					}}, nil
				}
				requireHeldUntilLastCall(t, w, e, i, c.reason)
				require.NotContains(t, w.effects, "pause b/app")
				w.requireNothingPaused(t)
			})
		})
	}
}

// requireHeldUntilLastCall requires that the primary is held for this reason and nothing is paused, until the drain's time is nearly over. Without
// a reason it moves at once.
func requireHeldUntilLastCall(t *testing.T, w *world, e *Escort, i *incarnation, reason string) {
	t.Helper()
	_, err, _ := w.runAs(t, e, i, "pg-0")
	if reason != "" {
		requireHeld(t, err, reason)
		require.Empty(t, w.effects)
		_, err, _ = w.runAs(t, e, i, "pg-0", lastCall)
	}
	require.NoError(t, err)
}

// CloudNativePG can lose what clients of any pooler write during its switchover, and pgbouncer refuses consoles after SIGTERM.
func TestRun_CloudNativePGAndAPoolerThatIsStopping_HeldWhileItServes(t *testing.T) {
	for pod, held := range map[stoppingPod]bool{{process: "1"}: true, {}: false, {process: "1", cluster: "another"}: false} {
		bubble.Test(t, func(t *testing.T) {
			c := newCNPGWorld()
			c.poolers["b"].noConsole = true
			e, v := c.view()
			connect := e.Connect
			e.Connect = func(ctx context.Context) (Cluster, error) {
				cluster, err := connect(ctx)
				return stopping{cluster, pod}, err
			}
			_, err, _ := c.runAs(t, e, v.incarnation, "pg-0", c.watchEviction)
			if held {
				requireHeld(t, err, "clients of pooler db/pooler-b cannot be held")
				require.Empty(t, c.order("pause"))
			} else {
				require.NoError(t, err)
			}
		})
	}
}

// stopping is a cluster whose pooler-b was told to stop.
type stopping struct {
	Cluster
	pod stoppingPod
}

type stoppingPod struct{ process, cluster string } // its cluster as its labels say; empty: they do not

func (s stopping) PodsMatching(ctx context.Context, namespace string, match func(drain.Pod) bool) ([]escort.Pod, error) {
	pods, err := s.Cluster.PodsMatching(ctx, namespace, match)
	for i := range pods {
		if p := &pods[i]; p.Name == "pooler-b" {
			p.Deleted, p.StopsBy = time.Now(), time.Now().Add(time.Minute)
			p.Containers = []escort.Container{{Name: "pgbouncer", Process: s.pod.process}}
			if s.pod.cluster != "" {
				p.Labels["cnpg.io/cluster"] = s.pod.cluster
			}
		}
	}
	return pods, err
}

// A client that streams keeps its connection, whatever the mode of the pool. The pooler's other databases are paused.
func TestRun_ReplicationClientOfAPooler_ItsDatabaseIsNotPausedInVain(t *testing.T) {
	const reason = "its databases with a replication client, which a pause would wait for, are not paused: cdc"
	for name, c := range map[string]struct {
		alone   bool // the pooler has no other database
		foreign bool // somebody else has paused it
		change  []func(*drain.EscortRequest)
		paused  []string
		reason  string
	}{
		"another database":            {paused: []string{"pause b/app"}, reason: "pooler db/pooler-b: " + reason},
		"no other database":           {alone: true, reason: "pooler db/pooler-b not held: " + reason},
		"time runs out":               {change: []func(*drain.EscortRequest){lastCall}, paused: []string{"pause b/app"}, reason: "pooler db/pooler-b: " + reason},
		"time runs out, no other":     {alone: true, change: []func(*drain.EscortRequest){lastCall}, reason: "pooler db/pooler-b not held: " + reason},
		"somebody else has paused it": {foreign: true, change: []func(*drain.EscortRequest){lastCall}, reason: "another administrator has paused database cdc"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				b := w.poolers["b"]
				cdc := PoolerDatabase{Name: "cdc", Host: "pg", InUse: true, Streams: true, Paused: c.foreign}
				if b.databases = append(b.databases, cdc); c.alone {
					b.databases = []PoolerDatabase{cdc}
				}
				result, err, _ := w.run(t, "pg-0", c.change...)
				require.NoError(t, err)
				require.Contains(t, result.Reason, c.reason)
				var paused []string
				for _, effect := range w.effects {
					if strings.HasPrefix(effect, "pause b/") {
						paused = append(paused, effect)
					}
				}
				require.Equal(t, c.paused, paused)
				require.NotContains(t, w.effects, "resume b/cdc")
			})
		})
	}
}

// The setting of one pooler must not have the clients of all fail.
func TestRun_TimeRunsOutAndAPoolersTimeoutIsShort_MovedUnderAPause(t *testing.T) {
	for name, change := range map[string]func(*worldPooler){
		"query_timeout":      func(p *worldPooler) { p.queryTime = 10 * time.Second },
		"query_wait_timeout": func(p *worldPooler) { p.queryWait = 35 * time.Second },
		"and a transaction":  func(p *worldPooler) { p.queryTime, p.longTx = 10*time.Second, true },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				change(w.poolers["a"])
				result, err, _ := w.run(t, "pg-0", lastCall)
				require.NoError(t, err)
				require.Contains(t, result.Reason, "moved to pg-1")
				require.Contains(t, w.effects, "pause a/app")
				require.Contains(t, w.effects, "pause b/app")
				w.requireNothingPaused(t)
			})
		})
	}
}

// A surge replaces a pooler, which has all the clients until it stops.
func TestRun_PoolerIsBeingReplaced_HeldUntilItIs(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		state  string
		reason string // empty: the primary moves
	}{
		"surge":                   {state: "surge", reason: "pooler db/pooler-b is being replaced"},
		"surge without an answer": {state: "surge", change: func(w *world) { w.poolers["b"].noConsole = true }, reason: "pooler db/pooler-b is being replaced"},
		"surge of another's":      {state: "surge", change: func(w *world) { w.poolers["b"].databases[0].Host = "elsewhere" }},
		"pause":                   {state: "pause"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld()
				if c.change != nil {
					c.change(w)
				}
				e, i := w.escort()
				e.Connect = func(context.Context) (Cluster, error) {
					return podsOf{i, func(p *escort.Pod) {
						if p.Name == "pooler-b" {
							p.Labels[drain.EscortLabel] = c.state
						}
					}}, nil
				}
				requireHeldUntilLastCall(t, w, e, i, c.reason)
				w.requireNothingPaused(t)
			})
		})
	}
}
