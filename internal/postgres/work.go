package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

const (
	// workTimeout bounds the question to the primary. No client waits yet, but a plan does, and a move holds Leases.
	workTimeout = 3 * time.Second
	// maxWorkAsked is how many poolers are asked until one answers. All lead to the same server.
	maxWorkAsked = 2
)

// workQuery asks the primary what a move would disturb. Every login may read these views. The rows of base backups have only their process
// and their database for logins without pg_read_all_stats, so they are counted
// (https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-STATS-VIEWS). pgBackRest takes its backups without a row there,
// under an advisory lock (https://github.com/pgbackrest/pgbackrest/blob/main/src/db/db.c, PG_BACKUP_ADVISORY_LOCK; pg_locks has the two
// halves of its number). The column failover exists from PostgreSQL 17 on
// (https://www.postgresql.org/docs/current/view-pg-replication-slots.html). A slot that has lost its log is of no use any more.
const workQuery = `SELECT pg_catalog.json_build_object(
	'recovery', pg_catalog.pg_is_in_recovery(),
	'backups', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_progress_basebackup)
		+ (SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks
			WHERE locktype = 'advisory' AND granted AND classid = 2873148 AND objid = 2290436513 AND objsubid = 1),
	'archiveFailed', (SELECT last_failed_time FROM pg_catalog.pg_stat_archiver
		WHERE last_failed_time > coalesce(last_archived_time, '-infinity') AND pg_catalog.current_setting('archive_mode') <> 'off'),
	'slots', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('name', slot_name, 'failover', pg_catalog.to_jsonb(s) -> 'failover'))
		FROM (SELECT * FROM pg_catalog.pg_replication_slots
			WHERE slot_type = 'logical' AND NOT temporary AND coalesce(wal_status, '') <> 'lost' ORDER BY slot_name LIMIT 101) s)
	)::text`

// workAnswer is the answer. What it says is data of whoever runs the pooler: it is only ever a reason to hold.
type workAnswer struct {
	Recovery      *bool      `json:"recovery"`
	Backups       int        `json:"backups"`
	ArchiveFailed *time.Time `json:"archiveFailed"`
	Slots         []struct {
		Name     string `json:"name"`
		Failover *bool  `json:"failover"`
	} `json:"slots"`
}

var (
	errNoAlias  = errors.New("no pooler in front has the database " + Alias)
	errReplica  = errors.New("the database " + Alias + " of the pooler leads to a replica")
	errNoAnswer = errors.New("not the expected answer")
)

// addWork asks the leader over SQL what goes on in its database, through the alias of a pooler in front. CloudNativePG says it without.
func (e *Escort) addWork(ctx context.Context, fronts []*front, f *Facts) {
	leader := f.LeaderMember()
	if leader == nil || leader.Work.Known {
		return
	}
	work, err := e.askWork(ctx, fronts)
	if err != nil {
		f.WorkUnknown = escort.Printable(err.Error())
		return
	}
	leader.Work = work
}

// askWork returns the first answer.
func (e *Escort) askWork(ctx context.Context, fronts []*front) (work Work, err error) {
	err = errNoAlias
	asked := 0
	for _, p := range fronts {
		if !p.alias || asked == maxWorkAsked {
			continue
		}
		asked++
		if work, err = e.askFront(ctx, p); err == nil {
			break
		}
	}
	return work, err
}

func (e *Escort) askFront(ctx context.Context, p *front) (Work, error) {
	ctx, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	text, err := e.Consoles.ReadText(ctx, p.pod, Alias, workQuery)
	if err != nil {
		return Work{}, fmt.Errorf("pooler %s: %w", p.pod.Ref, err)
	}
	work, err := readWork(text)
	if err != nil {
		return Work{}, fmt.Errorf("pooler %s: %w", p.pod.Ref, err)
	}
	return work, nil
}

// readWork reads the answer.
func readWork(text string) (Work, error) {
	var a workAnswer
	switch err := json.Unmarshal([]byte(text), &a); {
	case err != nil || a.Recovery == nil || a.Backups < 0:
		return Work{}, errNoAnswer
	case *a.Recovery:
		return Work{}, errReplica
	}
	work := Work{Known: true, BaseBackups: a.Backups}
	if a.ArchiveFailed != nil {
		work.ArchiveFailed = *a.ArchiveFailed
	}
	for _, slot := range a.Slots[:min(len(a.Slots), maxSenders)] {
		name := drain.Cut(slot.Name, maxSlotName)
		work.LogicalSlots = append(work.LogicalSlots, name)
		if slot.Failover != nil && *slot.Failover {
			work.SyncedSlots = append(work.SyncedSlots, name)
		}
	}
	return work, nil
}

// maxSlotName is the longest name that a slot can have, in bytes
// (https://www.postgresql.org/docs/current/limits.html, identifier length).
const maxSlotName = 63

// patroniSlot is an entry of Patroni's configuration slots
// (https://patroni.readthedocs.io/en/latest/dynamic_configuration.html).
type patroniSlot struct {
	Type     string `json:"type"`
	Database string `json:"database"`
	Plugin   string `json:"plugin"`
}

// maxPermanentSlots bounds the slots that are kept. PostgreSQL allows 10 unless configured.
const maxPermanentSlots = 100

// readPermanentSlots returns the logical slots that Patroni copies to each member that may become leader, and keeps up to date there.
func readPermanentSlots(config json.RawMessage) (names []string) {
	var slots map[string]patroniSlot
	if json.Unmarshal(config, &slots) != nil { // missing, or not as Patroni reads it: then it keeps none
		return nil
	}
	for name, slot := range slots {
		if slot.Database != "" && slot.Plugin != "" && (slot.Type == "" || slot.Type == "logical") && len(names) < maxPermanentSlots {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// workWarnings returns what is not known of the leader's database.
func (f *Facts) workWarnings(candidate Member) []string {
	leader := f.LeaderMember()
	if !leader.Work.Known {
		return []string{"it is not known whether a base backup runs, archiving fails, or a logical replication slot would be lost" + because(f.WorkUnknown)}
	}
	unsure := slices.DeleteFunc(slices.Clone(leader.SyncedSlots), func(slot string) bool {
		return slices.Contains(candidate.LogicalSlots, slot) || slices.Contains(f.PermanentSlots, slot)
	})
	if len(unsure) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("it is not known whether %s has copies of logical replication slots that PostgreSQL synchronizes: %s", candidate.Name, drain.Names(unsure, maxNames))}
}

// withoutWork returns the facts without what a move would disturb: at the end of the drain's time the leader stops in any case.
func (f Facts) withoutWork() Facts {
	f.Members = slices.Clone(f.Members)
	for i := range f.Members {
		f.Members[i].Work = Work{Known: f.Members[i].Work.Known}
	}
	f.Unattachable = ""
	return f
}
