package postgres

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

var now = time.Date(2026, 11, 26, 12, 0, 10, 0, time.UTC)

const mib = LSN(1 << 20)

// replicaNamed is a member that can become leader.
func replicaNamed(name string) Member {
	return Member{
		Ref: drain.Ref{Namespace: "db", Name: name, UID: "uid-" + name}, Node: "node-" + name, NodeCreated: now.Add(-time.Hour), Ready: true,
		LiveState: LiveState{Live: true, Role: Replica, State: streaming, Timeline: 2, LSN: 100 * mib},
	}
}

// healthy is a cluster of three whose leader pg-0 can switch over.
func healthy() Facts {
	leader := replicaNamed("pg-0")
	leader.LiveState = LiveState{Live: true, Role: Primary, State: "running", Timeline: 2, LSN: 100 * mib, Work: Work{Known: true}, Senders: []Sender{
		{Name: "pg-1", State: streaming}, {Name: "pg-2", State: streaming},
	}}
	return Facts{
		Identity: Identity{Operator: Patroni, Namespace: "db", Cluster: "demo", Scope: "demo"}, Mode: Endpoints, Version: "4.0.7",
		Leader: "pg-0", RenewTime: now.Add(-5 * time.Second), TTL: 30 * time.Second, LoopWait: 10 * time.Second, Leaders: []string{"pg-0"},
		Timeline: 2, LeaderLSN: 100 * mib, LeaderLive: true, MaxLag: mib,
		Members: []Member{leader, replicaNamed("pg-1"), replicaNamed("pg-2")},
	}
}

// healthyCNPG is such a cluster of CloudNativePG.
func healthyCNPG() Facts {
	f := healthy()
	f.Operator, f.Version, f.Mode, f.MaxLag, f.RenewTime, f.TTL = CloudNativePG, "1.30.0", "", 0, time.Time{}, 0
	return f
}

// strictPair has two members in strict synchronous mode.
func strictPair(f *Facts) {
	f.Members, f.Synchronous, f.Strict, f.SyncStandbys = f.Members[:2], true, true, []string{"pg-1"}
}

func each(change func(*Member)) func(*Facts) {
	return func(f *Facts) {
		for i := range f.Members[1:] {
			change(&f.Members[1+i])
		}
	}
}

// leaves has the leader's node leave, though its volumes find no other, and one replica at most would stay.
func leaves(why string) func(*Facts) {
	return func(f *Facts) {
		f.Members[0].Leaving, f.Unattachable = "it is being terminated", why
		f.Members = f.Members[:min(2, len(f.Members))]
	}
}

func TestAssess_Healthy_ReturnsTheCandidate(t *testing.T) {
	for _, f := range []Facts{healthy(), healthyCNPG()} {
		a := Assess(f, settings, now)
		require.Empty(t, a.Holds)
		require.Empty(t, a.Warnings)
		require.Empty(t, a.Plain)
		require.Equal(t, "pg-1", a.Candidate.Name)
	}
}

func TestAssess_EachReasonToHold_IsASentence(t *testing.T) {
	leader := func(change func(*Member)) func(*Facts) { return func(f *Facts) { change(&f.Members[0]) } }
	for want, change := range map[string]func(*Facts){
		"no member leads the cluster":                                                     func(f *Facts) { f.Leader = "" },
		"the leader pg-9 is not among the cluster's pods":                                 func(f *Facts) { f.Leader = "pg-9" },
		"the leader pg-0 is stopping already":                                             leader(func(m *Member) { m.Terminating = true }),
		"it is not known when the leader pg-0 last renewed its key":                       func(f *Facts) { f.RenewTime = time.Time{} },
		"the leader pg-0 last renewed its key 31s ago, more than its time to live of 30s": func(f *Facts) { f.RenewTime = now.Add(-31 * time.Second) },
		"the clock of the leader pg-0 is 1m0s ahead":                                      func(f *Facts) { f.RenewTime = now.Add(time.Minute) },
		"pg-0 should lead, but no member says that it does":                               func(f *Facts) { f.Leaders = nil },
		"2 members say that they lead: pg-0, pg-2":                                        func(f *Facts) { f.Leaders = []string{"pg-0", "pg-2"} },
		"pg-0 should lead, but pg-1 says that it does":                                    func(f *Facts) { f.Leaders = []string{"pg-1"} },
		"the leader pg-0 does not say its position in the log":                            leader(func(m *Member) { m.Live = false }),
		"the leader pg-0 does not say its position in the log: permission missing":        leader(func(m *Member) { m.Live, m.Failure = false, "permission missing" }),
		"the leader pg-0 sees no leader key":                                              leader(func(m *Member) { m.Unlocked = true }),
		"the leader pg-0 does not know its position in the log":                           func(f *Facts) { f.LeaderLSN = 0 },
		"the version of Patroni is not known":                                             func(f *Facts) { f.Version = "" },
		"Patroni 2.1.7 is not known to quiesce: it only assesses such clusters":           func(f *Facts) { f.Version = "2.1.7" },
		"Patroni 4.2.0 is not known to quiesce: it only assesses such clusters":           func(f *Facts) { f.Version = "4.2.0" },
		"Patroni is in maintenance mode (pause)":                                          func(f *Facts) { f.Paused = true },
		"a switchover from pg-0 to pg-2 has been requested":                               func(f *Facts) { f.Pending = "a switchover from pg-0 to pg-2" },
		"the cluster should follow another one, but its leader does not say so":           func(f *Facts) { f.Standby = true },
		"Zalando's operator has a critical operation on pg-2":                             func(f *Facts) { f.Members[2].CriticalOperation = true },
		"a base backup is being taken from the leader pg-0":                               leader(func(m *Member) { m.BaseBackups = 1 }),
		"the leader pg-0 has failed to archive its log since 2026-11-26T12:00:10Z":        leader(func(m *Member) { m.ArchiveFailed = now }),
		"pg-0 could not start again: no other node of zone a stays":                       leaves("no other node of zone a stays"),
		"the Cluster's phase is odd":                                                      func(f *Facts) { f.Holds = []string{"the Cluster's phase is odd"} },
		"pg-0 is the only member of its cluster, and its data may exist on this node only: it has no PersistentVolumeClaim": func(f *Facts) {
			f.Members, f.Members[0].Disk = f.Members[:1], "it has no PersistentVolumeClaim"
		},
	} {
		t.Run(want, func(t *testing.T) {
			f := healthy()
			change(&f)
			a := Assess(f, settings, now)
			require.Equal(t, []string{want}, a.Holds)
			require.Nil(t, a.Candidate)
			require.Empty(t, a.Plain)
		})
	}
}

func TestAssess_EachReasonAgainstACandidate_IsASentence(t *testing.T) {
	for want, change := range map[string]func(*Facts){
		"it is stopping":                                       each(func(m *Member) { m.Terminating = true }),
		"its node does not stay: it is cordoned":               each(func(m *Member) { m.Leaving = "it is cordoned" }),
		"it is on the leader's node":                           each(func(m *Member) { m.Node = "node-pg-0" }),
		"its pod is not ready":                                 each(func(m *Member) { m.Ready = false }),
		"it does not say its position in the log: timeout":     each(func(m *Member) { m.Live, m.Failure = false, "timeout" }),
		"its role is uninitialized, not replica":               each(func(m *Member) { m.Role = Uninitialized }),
		"its role is unknown, not replica":                     each(func(m *Member) { m.Role = "" }),
		"it has the tag nofailover":                            each(func(m *Member) { m.NoFailover = true }),
		"it does not stream: its state is starting":            each(func(m *Member) { m.State = "starting" }),
		"it does not stream: its state is in archive recovery": each(func(m *Member) { m.State = "in archive recovery" }),
		"it is on timeline 1, and the leader on 2":             each(func(m *Member) { m.Timeline = 1 }),
		"its position in the log is not known":                 each(func(m *Member) { m.LSN = 0 }),
		"it is 1.5 MiB behind, and the limit is 1.0 MiB":       each(func(m *Member) { m.LSN -= 3 * mib / 2 }),
		"it is not a synchronous standby":                      func(f *Facts) { f.Synchronous = true },
		"it lacks the logical replication slot cdc":            func(f *Facts) { f.Members[0].LogicalSlots = []string{"cdc"} },
	} {
		t.Run(want, func(t *testing.T) {
			f := healthy()
			change(&f)
			a := Assess(f, settings, now)
			require.Nil(t, a.Candidate)
			require.Equal(t, []string{"no member can become leader: pg-1: " + want + "; pg-2: " + want}, a.Holds)
		})
	}
}

func TestAssess_CloudNativePG_HasItsOwnRules(t *testing.T) {
	f := healthyCNPG()
	f.Version = "1.31.0"
	require.Equal(t, []string{"CloudNativePG 1.31.0 is not known to quiesce: it only assesses such clusters"}, Assess(f, settings, now).Holds)
	f.Version = "1.29.0"
	require.NotEmpty(t, Assess(f, settings, now).Holds, "before 1.29.1, the old primary is not marked")
	f = healthyCNPG()
	each(func(m *Member) { m.Timeline = 1 })(&f)
	require.Empty(t, Assess(f, settings, now).Holds, "a replica's timeline lags")
	each(func(m *Member) { m.State = "running" })(&f)
	require.NotEmpty(t, Assess(f, settings, now).Holds, "a replica says itself whether it streams")
	f = healthyCNPG()
	f.Synchronous = true
	require.NotEmpty(t, Assess(f, settings, now).Holds)
	f.Members[0].Senders[1].Sync = true
	require.Equal(t, "pg-2", Assess(f, settings, now).Candidate.Name)
}

func TestAssess_PlainMember_NeedsNoMove(t *testing.T) {
	f := healthy()
	f.Members = f.Members[:1]
	require.Equal(t, "it is the only member of its cluster, and its volumes follow it to another node", Assess(f, settings, now).Plain)
	f.Paused = true
	require.NotEmpty(t, Assess(f, settings, now).Holds, "in maintenance mode, Patroni would leave the database to its end")
	f = healthy()
	f.Standby, f.Members[0].Role = true, StandbyLeader
	require.Equal(t, "the cluster follows another one and takes no writes", Assess(f, settings, now).Plain)
}

func TestAssess_Lag_HasTheSmallerLimit(t *testing.T) {
	f := healthy()
	each(func(m *Member) { m.LSN -= 10 * mib })(&f)
	f.MaxLag = 100 * mib
	require.Empty(t, Assess(f, settings, now).Holds)
	small := settings
	small.MaxLag = int64(5 * mib)
	require.Contains(t, Assess(f, small, now).Holds[0], "10.0 MiB behind, and the limit is 5.0 MiB")
	f.MaxLag = 0
	require.Empty(t, Assess(f, settings, now).Holds, "CloudNativePG has no limit of its own")
}

// Patroni 3.0.2 does not say that a replica streams. The leader does.
func TestAssess_StateRunning_LeaderSaysWhetherItStreams(t *testing.T) {
	f := healthy()
	each(func(m *Member) { m.State = "running" })(&f)
	require.Equal(t, "pg-1", Assess(f, settings, now).Candidate.Name)
	f.Members[0].Senders[0].State = "catchup"
	require.Equal(t, "pg-2", Assess(f, settings, now).Candidate.Name)
	f.Members[0].Senders = nil
	require.Contains(t, Assess(f, settings, now).Holds[0], "it does not stream: its state is running")
}

func TestAssess_SeveralCandidates_TheBestIsChosen(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Facts)
		want   string
	}{
		"the synchronous standby, in Patroni's key":  {func(f *Facts) { f.Synchronous, f.SyncStandbys = true, []string{"pg-2"} }, "pg-2"},
		"one that PostgreSQL waits for":              {func(f *Facts) { f.Members[0].Senders[1].Sync = true }, "pg-2"},
		"the one that is closer":                     {func(f *Facts) { f.Members[1].LSN -= mib }, "pg-2"},
		"a few bytes do not count":                   {func(f *Facts) { f.Members[1].LSN -= 100 }, "pg-1"},
		"a few bytes of the newer node do not count": {func(f *Facts) { f.Members[2].NodeCreated, f.Members[2].LSN = now, f.Members[2].LSN-100 }, "pg-2"},
		"the one whose node is newer":                {func(f *Facts) { f.Members[2].NodeCreated = now }, "pg-2"},
		"the one whose node stays":                   {func(f *Facts) { f.Members[1].Leaving = "it is cordoned" }, "pg-2"},
	} {
		t.Run(name, func(t *testing.T) {
			f := healthy()
			c.change(&f)
			require.Equal(t, c.want, Assess(f, settings, now).Candidate.Name)
		})
	}
}

func TestAssess_Warnings_SayWhatAMoveCauses(t *testing.T) {
	f := healthy()
	strictPair(&f)
	f.Version, f.Warnings = "4.1.4", []string{"a fact"}
	f.Members[0].Senders = append(f.Members[0].Senders[:1], Sender{Name: "debezium"})
	require.Equal(t, []string{
		"a fact", "moves were not tested with Patroni 4.1.4",
		"the leader stops slowly, up to a minute, if a client of logical replication is behind: debezium",
		"the cluster has two members: until the old primary streams again, there is no standby, and the cluster takes no writes",
	}, Assess(f, settings, now).Warnings)
}

func TestAssess_WritesWaitForEveryStandby_WarnsThatTheyStop(t *testing.T) {
	f := healthyCNPG()
	f.Synchronous, f.Strict, f.SyncNumber = true, true, 2
	for i := range f.Members[0].Senders {
		f.Members[0].Senders[i].Sync = true
	}
	require.Equal(t, []string{"until the old primary streams again, the cluster takes no writes: they wait for 2 standbys"}, Assess(f, settings, now).Warnings)
	f.SyncNumber = 1
	require.Empty(t, Assess(f, settings, now).Warnings)
}

// Both members on leaving nodes: hold, and at the end of the time take what there is.
func TestAssessLast_NodesLeave_TakesTheCandidateAnyway(t *testing.T) {
	f := healthy()
	each(func(m *Member) { m.Leaving = "it is being terminated" })(&f)
	require.Nil(t, Assess(f, settings, now).Candidate)
	require.Equal(t, "pg-1", AssessLast(f, settings, now).Candidate.Name)
	f.Members[1].LSN = 0
	require.Equal(t, "pg-2", AssessLast(f, settings, now).Candidate.Name, "all else still counts")
}

func TestAssessReplica_ItsClusterNeedsIt_Holds(t *testing.T) {
	f := healthy()
	require.Empty(t, AssessReplica(f, "pg-1", now))
	f.Pending = "a switchover from pg-0 to pg-2"
	require.Equal(t, []string{"the cluster is moving: a switchover from pg-0 to pg-2 has been requested"}, AssessReplica(f, "pg-1", now))
	f.Pending = ""
	strictPair(&f)
	require.Equal(t, []string{"pg-1 is the last synchronous standby, and without one the cluster takes no writes"}, AssessReplica(f, "pg-1", now))
	f.Strict = false
	require.Empty(t, AssessReplica(f, "pg-1", now))
	f = healthy()
	f.Synchronous, f.Strict = true, true
	require.Empty(t, AssessReplica(f, "pg-1", now), "another streams and becomes the synchronous one")
	f.Members[2].State, f.Members[0].Senders = "starting", nil
	require.NotEmpty(t, AssessReplica(f, "pg-1", now))
}

// CloudNativePG never waits for fewer standbys than the Cluster's number.
func TestAssessReplica_WritesWaitForSeveralStandbys_EachIsHeldThatIsNeeded(t *testing.T) {
	for name, c := range map[string]struct {
		number, members int
		change          func(*Facts)
		held            bool
	}{
		"both of two":               {2, 3, func(*Facts) {}, true},
		"two of three":              {2, 4, func(*Facts) {}, false},
		"two of three, one is down": {2, 4, func(f *Facts) { f.Members[3].State = "running" }, true},
		"one of two":                {1, 3, func(*Facts) {}, false},
		"not strict":                {2, 3, func(f *Facts) { f.Strict = false }, false},
	} {
		f := healthyCNPG()
		f.Synchronous, f.Strict, f.SyncNumber = true, true, c.number
		f.Members = append(f.Members, replicaNamed("pg-3"))[:c.members]
		c.change(&f)
		holds := AssessReplica(f, "pg-1", now)
		require.Equal(t, c.held, len(holds) > 0, name)
		if c.held {
			require.Equal(t, []string{"pg-1 is one of the last 2 synchronous standbys, and without them the cluster takes no writes"}, holds, name)
		}
	}
}

// A replica may be about to lead.
func TestAssessReplica_LeaderIsNotThere_Holds(t *testing.T) {
	for want, change := range map[string]func(*Facts){
		"the leader pg-9 is not among the cluster's pods": func(f *Facts) { f.Leader = "pg-9" },
		"the leader pg-0 is stopping already":             func(f *Facts) { f.Members[0].Terminating = true },
		"the leader pg-0 last renewed its key 1m0s ago":   func(f *Facts) { f.RenewTime = now.Add(-time.Minute) },
		"the leader pg-0 does not answer: timeout":        func(f *Facts) { f.Members[0].Live, f.Members[0].Failure = false, "timeout" },
	} {
		f := healthy()
		change(&f)
		holds := AssessReplica(f, "pg-1", now)
		require.NotEmpty(t, holds, want)
		require.Contains(t, holds[0], want)
	}
}

// A pod that does not say yet what it is may be a replica that starts. Without it the primary is not the only member.
func TestAssess_OnlyMemberBesideOneThatStarts_IsHeld(t *testing.T) {
	f := healthy()
	f.Members = f.Members[:1]
	require.NotEmpty(t, Assess(f, settings, now).Plain)
	f.Others = 1
	a := Assess(f, settings, now)
	require.Empty(t, a.Plain)
	require.NotEmpty(t, a.Holds)
}

// randomFacts changes a healthy cluster at random, so that many are still healthy.
func randomFacts(r *rand.Rand) Facts {
	f := []Facts{healthy(), healthyCNPG()}[r.IntN(2)]
	odd := func() bool { return r.IntN(12) == 0 }
	for i := range f.Members {
		m := &f.Members[i]
		m.Terminating, m.Ready, m.Live, m.NoFailover = odd(), !odd(), !odd(), odd()
		m.LSN, m.Timeline = LSN(98+r.IntN(4))*mib, 2-r.IntN(12)/11
		m.NodeCreated = now.Add(-time.Duration(r.IntN(3)) * time.Hour)
		for change, do := range map[string]func(){
			"leaving": func() { m.Leaving = "it is cordoned" }, "node": func() { m.Node = "node-pg-0" },
			"role": func() { m.Role = []Role{"", Primary, Uninitialized, StandbyLeader}[r.IntN(4)] }, "state": func() { m.State = "running" },
			"lsn": func() { m.LSN = 0 }, "slot": func() { m.LogicalSlots = []string{"cdc"} }, "critical": func() { m.CriticalOperation = true },
		} {
			if odd() && change != "" {
				do()
			}
		}
	}
	f.LeaderLSN = f.Members[0].LSN
	for _, do := range []func(){
		func() { f.Leader = "pg-" + fmt.Sprint(r.IntN(5)) }, func() { f.RenewTime = now.Add(-time.Duration(r.IntN(60)) * time.Second) },
		func() { f.Paused = true }, func() { f.Pending = "a switchover" }, func() { f.Standby = true },
		func() { f.Leaders = f.Leaders[:0] }, func() { f.Version = "9.9.9" }, func() { f.LeaderLive = false },
		func() { f.Members = f.Members[:1+r.IntN(3)] }, func() { f.Holds = []string{"odd"} }, func() { f.Members[0].Disk = "local" },
		func() { f.Synchronous, f.SyncStandbys = true, []string{"pg-2"} },
	} {
		if odd() {
			do()
		}
	}
	return f
}

func TestAssess_AnyFacts_ACandidateIsSafe(t *testing.T) {
	const runs = 50_000
	r := rand.New(rand.NewPCG(1, 14))
	moved := 0
	for range runs {
		f := randomFacts(r)
		if err := unsafeAssessment(f, Assess(f, settings, now)); err != nil {
			t.Fatalf("%v: %+v", err, f)
		}
		if Assess(f, settings, now).Candidate != nil {
			moved++
		}
	}
	require.Greater(t, moved, runs/100)
	require.Less(t, moved, runs*9/10)
}

// unsafeAssessment returns which promise an assessment breaks. It does not use the code that it checks.
func unsafeAssessment(f Facts, a Assessment) error {
	c := a.Candidate
	if c == nil {
		if len(a.Holds) == 0 == (a.Plain == "") {
			return errors.New("exactly one of holds and plain says why nothing moves")
		}
		return nil
	}
	i := slices.IndexFunc(f.Members, func(m Member) bool { return m.Name == f.Leader })
	broken := []string{}
	for what, bad := range map[string]bool{
		"holds":           len(a.Holds) > 0 || a.Plain != "",
		"no leader":       i < 0 || f.Members[max(i, 0)].Terminating || !f.Members[max(i, 0)].Live,
		"itself":          c.Name == f.Leader,
		"gone":            !slices.ContainsFunc(f.Members, func(m Member) bool { return m.Name == c.Name }),
		"leaves":          c.Leaving != "" || c.Terminating || c.Node == "node-pg-0" && f.Leader == "pg-0",
		"unfit":           !c.Ready || !c.Live || c.Role != Replica || c.NoFailover,
		"lags":            c.LSN == 0 || f.LeaderLSN > c.LSN && f.LeaderLSN-c.LSN > 16*mib,
		"Patroni refuses": f.MaxLag > 0 && f.LeaderLSN > c.LSN && f.LeaderLSN-c.LSN > f.MaxLag,
		"not live":        !f.LeaderLive || f.LeaderLSN == 0,
		"stale":           f.Operator == Patroni && now.Sub(f.RenewTime) > f.TTL,
		"paused":          f.Paused, "pending": f.Pending != "", "standby": f.Standby, "holds of facts": len(f.Holds) > 0,
		"version":   f.Version != "4.0.7" && f.Version != "1.30.0",
		"split":     len(f.Leaders) != 1 || f.Leaders[0] != f.Leader,
		"not sync":  f.Synchronous && f.Operator == Patroni && !slices.Contains(f.SyncStandbys, c.Name),
		"timelines": f.Operator == Patroni && i >= 0 && c.Timeline != f.Members[i].Timeline,
	} {
		if bad {
			broken = append(broken, what)
		}
	}
	if len(broken) > 0 {
		return errors.New(strings.Join(broken, ", "))
	}
	return nil
}

func TestParseVersion_OfOneNumber_IsNotKnown(t *testing.T) {
	_, ok := parseVersion("4")
	require.False(t, ok, "4.0 and 4.9 are too different")
	v, ok := parseVersion("4.1-rc2")
	require.True(t, ok)
	require.Equal(t, version{4, 1, 0}, v)
}

func TestRounded_IsForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1234 * time.Millisecond: "1.2s", 59 * time.Second: "59s", 90*time.Second + 260*time.Millisecond: "1m30s",
	} {
		require.Equal(t, want, rounded(d).String())
	}
}

func TestSize_IsForPeople(t *testing.T) {
	for l, want := range map[LSN]string{0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", mib: "1.0 MiB", 1536: "1.5 KiB", 16 * mib: "16.0 MiB", 5 << 30: "5.0 GiB", 1<<64 - 1: "16777216.0 TiB"} {
		require.Equal(t, want, l.Size())
	}
}
