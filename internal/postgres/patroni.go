package postgres

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// Patroni's own defaults, for settings that its dynamic configuration lacks
// (https://patroni.readthedocs.io/en/latest/dynamic_configuration.html).
const (
	defaultTTL      = 30 * time.Second
	defaultLoopWait = 10 * time.Second
	defaultMaxLag   = LSN(1 << 20)
)

// maxSeconds bounds a duration that Patroni's objects have: an hour is far beyond every sensible one.
const maxSeconds = 3600

// patroniObjects are the objects in which Patroni keeps its state; nil: it does not exist.
type patroniObjects struct{ leader, config, sync, failover *escort.Annotated }

// read adds what the objects say. What is not as Patroni writes it becomes a reason to hold.
func (o patroniObjects) read(f *Facts) {
	o.readConfig(f)
	o.readLeader(f)
	o.readSync(f)
	o.readFailover(f)
}

// annotations returns the annotations of an object that may not exist.
func annotations(o *escort.Annotated) map[string]string {
	if o == nil {
		return nil
	}
	return o.Annotations
}

// readLeader reads the leader's key. The leader renews it in each loop.
func (o patroniObjects) readLeader(f *Facts) {
	a := annotations(o.leader)
	if f.Leader = a["leader"]; f.Leader != "" && !escort.IsName(f.Leader) {
		f.hold("Patroni's leader key has no valid name: %q", drain.Short(f.Leader))
		f.Leader = ""
	}
	f.RenewTime, f.LeaderSince = readTime(a["renewTime"]), readTime(a["acquireTime"])
	if ttl := readSeconds(a["ttl"]); ttl > 0 {
		f.TTL = ttl
	}
	if position, err := strconv.ParseUint(a["optime"], 10, 64); err == nil {
		f.LeaderLSN = LSN(position)
	}
}

// patroniConfig is the part of Patroni's dynamic configuration that matters for a switchover.
type patroniConfig struct {
	TTL      json.Number     `json:"ttl"`
	LoopWait json.Number     `json:"loop_wait"`
	MaxLag   json.Number     `json:"maximum_lag_on_failover"`
	Sync     json.RawMessage `json:"synchronous_mode"` // true, or quorum
	Strict   json.RawMessage `json:"synchronous_mode_strict"`
	Pause    json.RawMessage `json:"pause"`
	Standby  json.RawMessage `json:"standby_cluster"`
	Slots    json.RawMessage `json:"slots"`
}

// readConfig reads the dynamic configuration.
func (o patroniObjects) readConfig(f *Facts) {
	f.TTL, f.LoopWait = defaultTTL, defaultLoopWait
	if o.config == nil {
		f.hold("Patroni's object %s does not exist", f.ConfigObject())
		return
	}
	f.ObjectLabels = o.config.Labels
	var c patroniConfig
	if err := json.Unmarshal([]byte(o.config.Annotations["config"]), &c); err != nil {
		f.hold("the configuration in Patroni's object %s cannot be read", f.ConfigObject())
		return
	}
	f.TTL = cmp.Or(readSeconds(c.TTL.String()), defaultTTL)
	f.LoopWait = cmp.Or(readSeconds(c.LoopWait.String()), defaultLoopWait)
	f.MaxLag = defaultMaxLag
	if c.MaxLag != "" {
		lag, err := strconv.ParseUint(c.MaxLag.String(), 10, 63)
		if err != nil {
			f.hold("Patroni's maximum_lag_on_failover is not a number of bytes")
		}
		f.MaxLag = LSN(lag)
	}
	f.Synchronous, f.Strict = isOn(c.Sync), isOn(c.Strict)
	f.Paused, f.Standby = isOn(c.Pause), isOn(c.Standby)
	f.PermanentSlots = readPermanentSlots(c.Slots)
}

// readSync reads the synchronous standbys.
func (o patroniObjects) readSync(f *Facts) {
	if !f.Synchronous {
		return
	}
	for name := range strings.SplitSeq(annotations(o.sync)["sync_standby"], ",") {
		if name = strings.TrimSpace(name); escort.IsName(name) && !slices.Contains(f.SyncStandbys, name) {
			f.SyncStandbys = append(f.SyncStandbys, name)
		}
	}
}

// readFailover reads a request for a switchover.
func (o patroniObjects) readFailover(f *Facts) {
	if o.failover == nil {
		return
	}
	f.FailoverVersion = o.failover.ResourceVersion
	a := o.failover.Annotations
	leader, member, at := a["leader"], a["member"], a["scheduled_at"]
	if leader == "" && member == "" && at == "" {
		return
	}
	f.Pending = fmt.Sprintf("a switchover from %s to %s", orAny(leader), orAny(member))
	if at != "" {
		f.Pending += " at " + at
	}
	f.Pending = drain.Short(f.Pending)
}

func orAny(name string) string { return cmp.Or(name, "any member") }

// hold adds a reason to hold.
func (f *Facts) hold(format string, args ...any) {
	f.Holds = append(f.Holds, fmt.Sprintf(format, args...))
}

// isOn reports whether a setting is set: neither missing, null, false, off, zero nor empty. Quorum counts as on.
func isOn(value json.RawMessage) bool {
	text := strings.ToLower(strings.Trim(string(value), `"`))
	return !slices.Contains([]string{"", "null", "false", "off", "no", "0", "{}", "[]"}, text)
}

// readSeconds returns a number of seconds; zero: it is none.
func readSeconds(text string) time.Duration {
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 || n > maxSeconds {
		return 0
	}
	return time.Duration(n) * time.Second
}

// readTime returns a time as Python's isoformat writes it; zero: it is none.
func readTime(text string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}
	}
	return t
}

// tags are those of a member (https://patroni.readthedocs.io/en/latest/yaml_configuration.html#tags).
type tags struct {
	NoFailover json.RawMessage `json:"nofailover"`
	Priority   json.RawMessage `json:"failover_priority"`
}

// noFailover reports whether the member must not become leader. Without nofailover, a failover_priority of zero means that.
func (t tags) noFailover() bool {
	if len(t.NoFailover) > 0 && string(t.NoFailover) != "null" {
		return isOn(t.NoFailover)
	}
	return strings.Trim(string(t.Priority), `"`) == "0"
}

// memberStatus is the annotation status, which Patroni writes on the pod of each member in each loop.
type memberStatus struct {
	ConnURL  string `json:"conn_url"`
	APIURL   string `json:"api_url"`
	State    string `json:"state"`
	Role     string `json:"role"`
	Version  string `json:"version"`
	Timeline int    `json:"timeline"`
	LSN      LSN    `json:"xlog_location"`
	Tags     tags   `json:"tags"`

	ReplicationState string `json:"replication_state"`
}

// readStatus returns the annotation, and reports whether it is one that Patroni writes.
func readStatus(annotations map[string]string) (memberStatus, bool) {
	var s memberStatus
	err := json.Unmarshal([]byte(annotations[escort.PatroniStatus]), &s)
	return s, err == nil && s.ConnURL != "" && s.APIURL != "" && s.Role != ""
}

// addTo adds what the annotation says of a member. It is as old as Patroni's last loop.
func (s memberStatus) addTo(m *Member) {
	m.Role, m.State, m.Version = toRole(s.Role), word(s.State), word(s.Version)
	if s.ReplicationState != "" && m.Role == Replica {
		m.State = word(s.ReplicationState)
	}
	m.Timeline, m.LSN, m.NoFailover = s.Timeline, s.LSN, s.Tags.noFailover()
	m.API = addressOf(s.APIURL)
}

// addressOf returns the scheme and port of a URL. Its host is not believed: the pod's address is known.
func addressOf(api string) Address {
	u, err := url.Parse(api)
	if err != nil {
		return Address{}
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 || u.Scheme != "http" && u.Scheme != "https" {
		return Address{}
	}
	return Address{TLS: u.Scheme == "https", Port: int(port)}
}

// toRole returns the role that Patroni names. Before 4.0, a primary is a master
// (https://patroni.readthedocs.io/en/latest/releases.html#version-4-0-0).
func toRole(text string) Role {
	switch role := Role(text); role {
	case "master", "promoted":
		return Primary
	case Primary, StandbyLeader, Replica, Uninitialized:
		return role
	default:
		return ""
	}
}

// word returns a short text without spaces, such as a state or a version; empty: it is none.
func word(text string) string {
	const longest = 64
	isOther := func(r rune) bool { return r <= ' ' || r > '~' }
	if len(text) > longest || strings.ContainsFunc(strings.ReplaceAll(text, " ", ""), isOther) {
		return ""
	}
	return text
}

// patroniAnswer is the answer to GET /patroni (https://patroni.readthedocs.io/en/latest/rest_api.html#monitoring-endpoint).
type patroniAnswer struct {
	State    string `json:"state"`
	Role     string `json:"role"`
	Timeline int    `json:"timeline"`
	Xlog     struct {
		Location LSN `json:"location"`
		Received LSN `json:"received_location"`
		Replayed LSN `json:"replayed_location"`
	} `json:"xlog"`
	ReplicationState string `json:"replication_state"`
	Replication      []struct {
		Name  string `json:"application_name"`
		State string `json:"state"`
		Sync  string `json:"sync_state"`
	} `json:"replication"`
	Patroni struct {
		Version string `json:"version"`
		Scope   string `json:"scope"`
		Name    string `json:"name"` // Patroni before 3.1 does not say it
	} `json:"patroni"`
	Pause    bool `json:"pause"`
	Unlocked bool `json:"cluster_unlocked"` // no member has the leader's key
	Tags     tags `json:"tags"`
}

var errOtherMember = errors.New("another member answered")

// maxSenders bounds the WAL senders that are kept. PostgreSQL allows 10 unless configured.
const maxSenders = 100

// readPatroni reads the answer of a member.
func readPatroni(body []byte, i Identity, m Member) (LiveState, error) {
	var a patroniAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return LiveState{}, fmt.Errorf("read the answer of Patroni: %w", errNotJSON)
	}
	if a.Patroni.Scope != i.Scope || a.Patroni.Name != "" && a.Patroni.Name != m.Name {
		return LiveState{}, fmt.Errorf("%w: %q of %q", errOtherMember, drain.Short(a.Patroni.Name), drain.Short(a.Patroni.Scope))
	}
	s := LiveState{
		Live: true, Role: toRole(a.Role), State: word(a.State), Version: word(a.Patroni.Version), Timeline: a.Timeline,
		LSN: a.Xlog.Location, NoFailover: a.Tags.noFailover(), Paused: a.Pause, Unlocked: a.Unlocked,
	}
	if s.Role != Primary {
		s.LSN = cmp.Or(a.Xlog.Received, a.Xlog.Replayed)
	}
	if s.Role == Replica && a.ReplicationState != "" {
		s.State = word(a.ReplicationState)
	}
	for _, r := range a.Replication[:min(len(a.Replication), maxSenders)] {
		s.Senders = append(s.Senders, Sender{Name: drain.Short(r.Name), State: word(r.State), Sync: isSync(r.Sync)})
	}
	return s, nil
}

// isSync reports whether a sender's sync_state is that of a synchronous standby
// (https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-REPLICATION-VIEW).
func isSync(state string) bool { return state == "sync" || state == "quorum" }

// errNotJSON stands for an error of package json: its text may repeat what the pod sent.
var errNotJSON = errors.New("not the expected JSON")
