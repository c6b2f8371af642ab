package postgres

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// The custom resource of a CloudNativePG cluster
// (https://cloudnative-pg.io/documentation/current/cloudnative-pg.v1/#postgresql-cnpg-io-v1-Cluster).
const (
	cnpgGroup    = "postgresql.cnpg.io/v1"
	cnpgClusters = "clusters"
	// cnpgHealthy is the phase of a cluster with which nothing happens.
	cnpgHealthy = "Cluster in healthy state"
	// cnpgFenced is the annotation that has the fenced instances, as a JSON list. An asterisk stands for all.
	cnpgFenced = "cnpg.io/fencedInstances"
	// cnpgReconciles is the annotation that stops the operator, if it is "disabled". Instances still follow a new target primary, and
	// no Service does (https://cloudnative-pg.io/documentation/current/failure_modes/#disabling-reconciliation).
	cnpgReconciles = "cnpg.io/reconciliationLoop"
	// cnpgUnhealthy is the role of an old primary during a switchover, since 1.29.1.
	cnpgUnhealthy = "unhealthy"
	// cnpgScratch ends the name of a pod's claim for temporary files, which is deleted with the pod (ephemeralVolumeSource of a Cluster).
	cnpgScratch = "-scratch-data"
	// cnpgStatusPort is where an instance manager serves /pg/status.
	cnpgStatusPort = 8000
)

// cnpgCluster is the part of a Cluster that matters for a switchover.
type cnpgCluster struct {
	Metadata struct {
		ResourceVersion string
		Annotations     map[string]string
	}
	Spec struct {
		Instances       int
		MinSyncReplicas int
		Replica         *struct {
			Enabled *bool
			Primary string // in a distributed topology, Enabled is missing
			Self    string
		}
		PostgreSQL struct {
			Synchronous *struct {
				Number         int
				DataDurability string
			}
		}
	}
	Status struct {
		CurrentPrimary          string
		CurrentPrimaryTimestamp string
		TargetPrimary           string
		Phase                   string
		ReadyInstances          int
		TimelineID              int
		InstancesReportedState  map[string]struct{ IsPrimary bool }
	}
}

// read adds what the resource says. What is not at rest becomes a reason to hold.
func (c *cnpgCluster) read(f *Facts) {
	s := &c.Status
	f.Leader, f.LeaderSince, f.Timeline = s.CurrentPrimary, readTime(s.CurrentPrimaryTimestamp), s.TimelineID
	if f.Leader != "" && !escort.IsName(f.Leader) {
		f.hold("the Cluster's currentPrimary is no name: %q", drain.Short(f.Leader))
		f.Leader = ""
	}
	if s.TargetPrimary != s.CurrentPrimary {
		f.Pending = drain.Short(fmt.Sprintf("a switchover from %s to %s", orAny(s.CurrentPrimary), orAny(s.TargetPrimary)))
	}
	if s.Phase != cnpgHealthy {
		f.hold("the Cluster's phase is %q, not %q", drain.Short(s.Phase), cnpgHealthy)
	}
	if s.ReadyInstances != c.Spec.Instances {
		f.hold("only %d of %d instances are ready", s.ReadyInstances, c.Spec.Instances)
	}
	if text := c.Metadata.Annotations[cnpgFenced]; isFenced(text) {
		f.hold("instances are fenced: %s", drain.Short(text))
	}
	if c.Metadata.Annotations[cnpgReconciles] == "disabled" {
		f.hold("the operator does not reconcile the Cluster: its annotation %s is disabled", cnpgReconciles)
	}
	for name, state := range s.InstancesReportedState {
		if state.IsPrimary && escort.IsName(name) {
			f.Leaders = append(f.Leaders, name)
		}
	}
	slices.Sort(f.Leaders)
	c.readSettings(f)
}

// readSettings adds what the Cluster's owner wants.
func (c *cnpgCluster) readSettings(f *Facts) {
	sync := c.Spec.PostgreSQL.Synchronous
	f.Synchronous = c.Spec.MinSyncReplicas > 0 || sync != nil && sync.Number > 0
	// Without preferred, writes wait for a standby: https://cloudnative-pg.io/documentation/current/replication/#data-durability.
	f.Strict = sync != nil && sync.DataDurability != "preferred"
	if sync != nil {
		f.SyncNumber = sync.Number
	}
	if r := c.Spec.Replica; r != nil {
		f.Standby = r.Enabled != nil && *r.Enabled || r.Enabled == nil && r.Primary != cmp.Or(r.Self, f.Cluster)
	}
}

// isMoving reports whether CloudNativePG moves the primary. The PDB of primaries does not protect the old one meanwhile, and its stop ships
// the last of the log. So it must not be told to stop with less time than it takes.
func (f *Facts) isMoving() bool { return !f.Operator.UsesPatroni() && f.Pending != "" }

// isFenced reports whether the annotation names any instance.
func isFenced(text string) bool {
	var names []string
	return text != "" && (json.Unmarshal([]byte(text), &names) != nil || len(names) > 0)
}

// cnpgStatus is the answer of an instance manager
// (https://github.com/cloudnative-pg/cloudnative-pg/blob/main/pkg/postgres/status.go). Positions are texts.
type cnpgStatus struct {
	CurrentLSN  string `json:"currentLsn"`
	ReceivedLSN string `json:"receivedLsn"`
	IsPrimary   bool   `json:"isPrimary"`
	Receiving   bool   `json:"isWalReceiverActive"`
	Rewinding   bool   `json:"isPgRewindRunning"`
	Upgrading   bool   `json:"isInstanceManagerUpgrading"`
	Timeline    int    `json:"timeLineID"`
	Version     string `json:"instanceManagerVersion"`
	Replication []struct {
		Name  string `json:"applicationName"`
		State string `json:"state"`
		Sync  string `json:"syncState"`
	} `json:"replicationInfo"`
	BaseBackups []struct{} `json:"pgStatBasebackupsInfo"`
	Slots       []struct {
		Name string `json:"slotName"`
		Type string `json:"slotType"`
	} `json:"replicationSlotsInfo"`
	LastArchived string `json:"lastArchivedWALTime"`
	LastFailed   string `json:"lastFailedWALTime"`
}

// readCNPG reads the answer of an instance.
func readCNPG(body []byte) (LiveState, error) {
	var a cnpgStatus
	if err := json.Unmarshal(body, &a); err != nil {
		return LiveState{}, fmt.Errorf("read the answer of the instance: %w", errNotJSON)
	}
	s := LiveState{Live: true, Role: Replica, State: "running", Version: word(a.Version), Timeline: a.Timeline}
	switch {
	case a.Rewinding:
		s.State = "running pg_rewind"
	case a.Upgrading:
		s.State = "upgrading its instance manager"
	case !a.IsPrimary && a.Receiving:
		s.State = streaming
	}
	s.LSN, _ = ParseLSN(a.ReceivedLSN) // zero is unknown
	if a.IsPrimary {
		s.Role = Primary
		s.LSN, _ = ParseLSN(a.CurrentLSN)
	}
	for _, r := range a.Replication[:min(len(a.Replication), maxSenders)] {
		s.Senders = append(s.Senders, Sender{Name: drain.Short(r.Name), State: word(r.State), Sync: isSync(r.Sync)})
	}
	s.Known, s.BaseBackups = true, len(a.BaseBackups)
	for _, slot := range a.Slots {
		if slot.Type == "logical" && len(s.LogicalSlots) < maxSenders {
			s.LogicalSlots = append(s.LogicalSlots, drain.Short(slot.Name))
		}
	}
	if failed := readCNPGTime(a.LastFailed); failed.After(readCNPGTime(a.LastArchived)) {
		s.ArchiveFailed = failed
	}
	return s, nil
}

// readCNPGTime returns a time as PostgreSQL prints it in the answer; zero: it is none. An archiver that never archived has "-".
func readCNPGTime(text string) time.Time {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07", "2006-01-02 15:04:05.999999999Z07:00"} {
		if t, err := time.Parse(layout, strings.TrimSpace(text)); err == nil {
			return t
		}
	}
	return time.Time{}
}
