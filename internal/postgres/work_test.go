package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	"quiesce/test/parts/bubble"
	parts "quiesce/test/parts/pgbouncer"
)

// consolesOfApp are consoles of a real pooler whose login is an ordinary one.
func consolesOfApp(p *parts.Pooler) Consoles {
	c := consolesOf(p)
	c.Logins = loginsOfUser(parts.App.Name, parts.App.Password)
	return c
}

// A login without any role of monitoring gets the whole answer of a real PostgreSQL.
func TestWorkQuery_RealPostgreSQLAsAnyUser_IsAnswered(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		text, err := consolesOfApp(p).ReadText(t.Context(), poolerPod("a"), "app", workQuery)
		require.NoError(t, err)
		work, err := readWork(text)
		require.NoError(t, err)
		require.Equal(t, Work{Known: true}, work)

		app := p.Connect(t)
		parts.Exec(t, app, "BEGIN")
		parts.Exec(t, app, "SELECT pg_advisory_xact_lock(12340078987004321)") // as pgBackRest while it takes a backup
		text, err = consolesOfApp(p).ReadText(t.Context(), poolerPod("a"), "app", workQuery)
		require.NoError(t, err)
		work, err = readWork(text)
		require.NoError(t, err)
		require.Equal(t, 1, work.BaseBackups)
		parts.Exec(t, app, "COMMIT")

		_, err = consolesOfApp(p).ReadText(t.Context(), poolerPod("a"), "none", workQuery)
		require.Error(t, err)
		require.NotErrorIs(t, err, pgbouncer.ErrNoText)
	})
}

func TestReadWork_Answers_AreReadAndBounded(t *testing.T) {
	failed := time.Date(2026, 11, 26, 23, 52, 20, 395857000, time.UTC)
	for text, want := range map[string]Work{
		`{"recovery" : false, "backups" : 0, "archiveFailed" : null, "slots" : null}`:                   {Known: true},
		`{"recovery":false,"backups":2,"archiveFailed":"2026-11-26T23:52:20.395857+00:00","slots":[]}`:  {Known: true, BaseBackups: 2, ArchiveFailed: failed},
		`{"recovery":false,"slots":[{"name":"cdc","failover":null},{"name":"synced","failover":true}]}`: {Known: true, LogicalSlots: []string{"cdc", "synced"}, SyncedSlots: []string{"synced"}},
	} {
		got, err := readWork(text)
		require.NoError(t, err)
		require.True(t, want.ArchiveFailed.Equal(got.ArchiveFailed), text)
		got.ArchiveFailed = want.ArchiveFailed
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "{}", "[]", `{"recovery":"no"}`, `{"recovery":false,"backups":-1}`, `{"recovery":false,"archiveFailed":"yesterday"}`} {
		_, err := readWork(text)
		require.ErrorIs(t, err, errNoAnswer, text)
	}
	_, err := readWork(`{"recovery":true}`)
	require.ErrorIs(t, err, errReplica)
	many, err := readWork(`{"recovery":false,"slots":[` + strings.Repeat(`{"name":"`+strings.Repeat("x", 5000)+`"},`, 200) + `{}]}`)
	require.NoError(t, err)
	require.Len(t, many.LogicalSlots, maxSenders)
	require.LessOrEqual(t, len(many.LogicalSlots[0]), maxSlotName)
}

func TestAssess_LogicalSlots_ACopyIsNeeded(t *testing.T) {
	f := healthy()
	f.Members[0].LogicalSlots = []string{"cdc"}
	require.Contains(t, Assess(f, settings, now).Holds[0], "pg-1: it lacks the logical replication slot cdc")
	f.PermanentSlots = []string{"cdc"}
	require.Equal(t, "pg-1", Assess(f, settings, now).Candidate.Name, "Patroni keeps it there")
	require.Empty(t, Assess(f, settings, now).Warnings)
	f.PermanentSlots, f.Members[0].SyncedSlots = nil, []string{"cdc"}
	require.Equal(t, []string{"it is not known whether pg-1 has copies of logical replication slots that PostgreSQL synchronizes: cdc"},
		Assess(f, settings, now).Warnings)
	f.Members[1].LogicalSlots = []string{"cdc"}
	require.Empty(t, Assess(f, settings, now).Warnings, "the member says so")
}

// At the end the primary stops in any case. A move disturbs what goes on in it no more than that.
func TestAssessLast_WorkGoesOn_MovesAnyway(t *testing.T) {
	f := healthy()
	f.Members[0].BaseBackups, f.Members[0].ArchiveFailed, f.Members[0].LogicalSlots = 1, now, []string{"cdc"}
	leaves("no node")(&f)
	require.Len(t, Assess(f, settings, now).Holds, 3)
	require.Equal(t, "pg-1", AssessLast(f, settings, now).Candidate.Name)
	require.Equal(t, 1, f.Members[0].BaseBackups, "the facts are as they were")
}

func TestReadPermanentSlots_AnyKind_OnlyLogicalOnes(t *testing.T) {
	o := objectsOfDemo()
	o.config.Annotations["config"] = `{"slots":{"b":{"type":"logical","database":"app","plugin":"pgoutput"},"a":{"database":"app","plugin":"x"},
		"c":{"type":"physical"},"d":{"type":"logical"},"e":{}}}`
	f := factsOf(o)
	require.Equal(t, []string{"a", "b"}, f.PermanentSlots)
	for _, config := range []string{`{"slots":null}`, `{"slots":[]}`, `{"slots":{"a":7}}`, `{}`} {
		o.config.Annotations["config"] = config
		f := factsOf(o)
		require.Empty(t, f.PermanentSlots, config)
		require.Empty(t, f.Holds, config)
	}
}

func TestReadPermanentSlots_TooMany_Bounded(t *testing.T) {
	slots := map[string]patroniSlot{}
	for n := range maxPermanentSlots + 50 {
		slots[fmt.Sprint("slot-", n)] = patroniSlot{Type: "logical", Database: "app", Plugin: "pgoutput"}
	}
	config, err := json.Marshal(slots)
	require.NoError(t, err)
	require.Len(t, readPermanentSlots(config), maxPermanentSlots)
}

// askedPoolers notes which poolers are asked. Those in answers answer.
type askedPoolers struct {
	PoolerConsoles
	answers []string
	asked   []string
}

func (a *askedPoolers) ReadText(_ context.Context, p escort.Pod, _, _ string) (string, error) {
	name := strings.TrimPrefix(p.Name, "pooler-")
	a.asked = append(a.asked, name)
	if slices.Contains(a.answers, name) {
		return `{"recovery":false,"backups":0}`, nil
	}
	return "", errors.New("no route")
}

func TestAskWork_SeveralPoolers_FewAreAskedUntilOneAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answers, asked []string
		fails          bool
	}{
		"the first answers":  {[]string{"a", "b", "c"}, []string{"a"}, false},
		"the second answers": {[]string{"b", "c"}, []string{"a", "b"}, false},
		"only a third would": {[]string{"c"}, []string{"a", "b"}, true},
	} {
		asked := &askedPoolers{answers: c.answers}
		e := &Escort{}
		e.Consoles = asked
		fronts := []*front{{}}
		for _, pooler := range []string{"a", "b", "c"} {
			fronts = append(fronts, &front{alias: true, pod: poolerPod(pooler)})
		}
		_, err := e.askWork(t.Context(), fronts)
		require.Equal(t, c.fails, err != nil, "%s: %v", name, err)
		require.Equal(t, c.asked, asked.asked, name)
	}
}

// withAlias gives every pooler the database that is never paused.
func (w *world) withAlias() *world {
	for _, p := range w.poolers {
		p.databases = append(p.databases, PoolerDatabase{Name: Alias, Host: "pg"})
	}
	return w
}

// What goes on in the database is asked for through the alias, before anything is paused.
func TestRun_WorkGoesOnInTheDatabase_NothingIsPaused(t *testing.T) {
	for work, reason := range map[string]string{
		`{"recovery":false,"backups":1}`:                                 "a base backup is being taken from the leader pg-0",
		`{"recovery":false,"archiveFailed":"2026-11-26T12:00:00+00:00"}`: "the leader pg-0 has failed to archive its log since 2026-11-26T12:00:00Z",
		`{"recovery":false,"slots":[{"name":"cdc"}]}`:                    "pg-1: it lacks the logical replication slot cdc",
		`{"recovery":false,"slots":[{"name":"cdc","failover":true}]}`:    "",
		`{"recovery":true}`: "",
	} {
		bubble.Test(t, func(t *testing.T) {
			w := newWorld().withAlias()
			w.work = work
			result, err, _ := w.run(t, "pg-0")
			if reason != "" {
				requireHeld(t, err, reason)
				require.Empty(t, w.order("pause", "request"))
				return
			}
			require.NoError(t, err)
			require.Contains(t, result.Reason, "it is not known whether")
		})
	}
	bubble.Test(t, func(t *testing.T) {
		w := newWorld().withAlias()
		result, err, _ := w.run(t, "pg-0")
		require.NoError(t, err)
		require.NotContains(t, result.Reason, "not known")
	})
}

func TestEscortAdvise_WorkGoesOn_IsSaid(t *testing.T) {
	w := newWorld().withAlias()
	w.work = `{"recovery":false,"backups":1}`
	e, _ := w.escort()
	lines := e.Advise(t.Context(), memberPod("pg-0", "10.0.0.10").Pod)
	require.Contains(t, lines, "The primary would be held: a base backup is being taken from the leader pg-0.")
	w.unreadable = true
	lines = e.Advise(t.Context(), memberPod("pg-0", "10.0.0.10").Pod)
	require.Contains(t, lines[len(lines)-1], "Failed to find its poolers")
}

func TestRun_NoOtherNodeForItsVolumes_HeldUntilTheEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld()
		delete(w.members, "pg-2")
		w.unattachable = "no other node of zone a stays, and the volume of claim data cannot leave it"
		_, err, _ := w.run(t, "pg-0")
		requireHeld(t, err, "pg-0 could not start again: no other node of zone a stays")
		result, err, _ := w.run(t, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = time.Now().Add(time.Minute) })
		require.NoError(t, err)
		require.Contains(t, result.Reason, "moved to pg-1")
		w.requireNothingPaused(t)
	})
}

func TestObserve_VolumesOfTheLeader_NeedAnotherNode(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*api)
		want   string
		warn   string
	}{
		"another node":   {func(a *api) { a.staying["a"] = true }, "", ""},
		"none":           {func(*api) {}, "no other node of zone a stays, and the volume of claim data cannot leave it", ""},
		"in no zone":     {func(a *api) { a.zones = nil }, "", ""},
		"one of two":     {func(a *api) { a.staying["a"], a.zones["wal"] = true, []string{"b"} }, "no other node of zone b stays, and the volume of claim wal cannot leave it", ""},
		"volume unknown": {func(a *api) { a.errs["volumes"] = context.DeadlineExceeded }, "", "it is not known whether another node can take the volumes of pg-0: context deadline exceeded"},
		"nodes unknown":  {func(a *api) { a.errs["zone"] = context.DeadlineExceeded }, "", "it is not known whether another node can take the volumes of pg-0: context deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			a := demoAPI()
			a.pods[0].Claims, a.zones, a.staying = []string{"data", "wal"}, map[string][]string{"data": {"a"}}, map[string]bool{}
			c.change(a)
			f, err := Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, demo)
			require.NoError(t, err)
			require.Equal(t, c.want, f.Unattachable)
			if c.warn == "" {
				require.Empty(t, f.Warnings)
			} else {
				require.Equal(t, []string{c.warn}, f.Warnings)
			}
		})
	}
}

// Two replicas stay: the old primary is not missed at once.
func TestAssess_TwoReplicasStay_VolumesAreOnlyAWarning(t *testing.T) {
	f := healthy()
	f.Members[0].Leaving, f.Unattachable = "it is being terminated", "no other node of zone a stays"
	a := Assess(f, settings, now)
	require.Empty(t, a.Holds)
	require.Contains(t, a.Warnings, "pg-0 could not start again if its node left: no other node of zone a stays")
	f.Members[2].Leaving = "it is being terminated"
	require.Equal(t, []string{"pg-0 could not start again: no other node of zone a stays"}, Assess(f, settings, now).Holds)
}

// By hand, the old primary starts again where it is.
func TestAssess_LeadersNodeStays_VolumesAreOnlyAWarning(t *testing.T) {
	f := healthy()
	f.Unattachable = "no other node of zone a stays"
	a := Assess(f, settings, now)
	require.Equal(t, "pg-1", a.Candidate.Name)
	require.Equal(t, []string{"pg-0 could not start again if its node left: no other node of zone a stays"}, a.Warnings)
}

// A member that is alone needs no switchover. Without a node in its zone it would not come back.
func TestAssess_SingleWithoutAnotherNode_Holds(t *testing.T) {
	f := healthy()
	f.Members = f.Members[:1]
	leaves("no other node of zone a stays")(&f)
	a := Assess(f, settings, now)
	require.Empty(t, a.Plain)
	require.Equal(t, []string{"pg-0 could not start again: no other node of zone a stays"}, a.Holds)
	require.NotEmpty(t, AssessLast(f, settings, now).Plain)
	f.Members[0].Leaving = ""
	require.NotEmpty(t, Assess(f, settings, now).Plain, "a plan of a node that stays for now")
}
