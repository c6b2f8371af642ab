package postgres

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

func note(annotations map[string]string) *escort.Annotated {
	return &escort.Annotated{ResourceVersion: "17", Labels: map[string]string{"cluster-name": "demo"}, Annotations: annotations}
}

// objectsOfDemo are the objects of a healthy cluster, as Patroni 4.0.7 wrote them.
func objectsOfDemo() patroniObjects {
	return patroniObjects{
		leader: note(map[string]string{
			"leader": "pg-0", "optime": "67109192", "ttl": "30", "renewTime": "2026-11-26T12:00:05.123456+00:00",
			"acquireTime": "2026-11-26T11:00:00+00:00", "transitions": "3", "slots": `{"pg_1":67109192}`,
		}),
		config: note(map[string]string{
			"config":  `{"loop_wait":10,"ttl":30,"retry_timeout":10,"maximum_lag_on_failover":2097152,"postgresql":{"use_slots":true},"pause":null}`,
			"history": `[[1,50331648,"no recovery target specified","2026-11-26T11:00:00+00:00","pg-0"]]`, "initialize": "7577",
		}),
		sync:     note(map[string]string{"leader": "pg-0", "sync_standby": "pg-1,pg-2"}),
		failover: note(nil),
	}
}

func factsOf(o patroniObjects) Facts {
	f := Facts{Identity: Identity{Operator: Patroni, Namespace: "db", Cluster: "demo", Scope: "demo"}}
	o.read(&f)
	return f
}

func TestPatroniObjects_Healthy_AreRead(t *testing.T) {
	f := factsOf(objectsOfDemo())
	require.Empty(t, f.Holds)
	require.Equal(t, "pg-0", f.Leader)
	require.Equal(t, time.Date(2026, 11, 26, 12, 0, 5, 123456000, time.UTC), f.RenewTime.UTC())
	require.Equal(t, time.Date(2026, 11, 26, 11, 0, 0, 0, time.UTC), f.LeaderSince.UTC())
	require.Equal(t, 30*time.Second, f.TTL)
	require.Equal(t, 10*time.Second, f.LoopWait)
	require.Equal(t, "0/4000148", f.LeaderLSN.String())
	require.False(t, f.LeaderLive)
	require.Equal(t, LSN(2<<20), f.MaxLag)
	require.Empty(t, f.SyncStandbys, "not in synchronous mode")
	require.Empty(t, f.Pending)
	require.Equal(t, "17", f.FailoverVersion)
	require.Equal(t, map[string]string{"cluster-name": "demo"}, f.ObjectLabels)
	require.False(t, f.Paused || f.Standby || f.Synchronous || f.Strict)
}

func TestPatroniObjects_Settings_AreRead(t *testing.T) {
	for config, want := range map[string]Facts{
		`{"synchronous_mode":true}`:                                    {Synchronous: true},
		`{"synchronous_mode":"quorum"}`:                                {Synchronous: true},
		`{"synchronous_mode":"on","synchronous_mode_strict":true}`:     {Synchronous: true, Strict: true},
		`{"synchronous_mode":false,"pause":true}`:                      {Paused: true},
		`{"synchronous_mode":"off","pause":false}`:                     {},
		`{"standby_cluster":{"host":"a"}}`:                             {Standby: true},
		`{"standby_cluster":null}`:                                     {},
		`{"ttl":60,"loop_wait":5,"maximum_lag_on_failover":"1048577"}`: {TTL: time.Minute, LoopWait: 5 * time.Second, MaxLag: 1<<20 + 1},
		`{"ttl":0,"loop_wait":-1}`:                                     {},
	} {
		t.Run(config, func(t *testing.T) {
			o := objectsOfDemo()
			o.config.Annotations["config"] = config
			delete(o.leader.Annotations, "ttl")
			f := factsOf(o)
			require.Empty(t, f.Holds)
			require.Equal(t, want.Synchronous, f.Synchronous)
			require.Equal(t, want.Strict, f.Strict)
			require.Equal(t, want.Paused, f.Paused)
			require.Equal(t, want.Standby, f.Standby)
			require.Equal(t, max(want.TTL, 30*time.Second), f.TTL)
			require.Equal(t, max(want.MaxLag, 1<<20), f.MaxLag)
			if want.LoopWait > 0 {
				require.Equal(t, want.LoopWait, f.LoopWait)
			}
			if want.Synchronous {
				require.Equal(t, []string{"pg-1", "pg-2"}, f.SyncStandbys)
			}
		})
	}
}

func TestPatroniObjects_NotAsPatroniWrites_Hold(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*patroniObjects)
		hold   string
	}{
		"no config":         {func(o *patroniObjects) { o.config = nil }, "Patroni's object demo-config does not exist"},
		"no JSON":           {func(o *patroniObjects) { o.config.Annotations["config"] = "pause: true" }, "the configuration in Patroni's object demo-config cannot be read"},
		"a negative lag":    {func(o *patroniObjects) { o.config.Annotations["config"] = `{"maximum_lag_on_failover":-1}` }, "Patroni's maximum_lag_on_failover is not a number of bytes"},
		"a leader's path":   {func(o *patroniObjects) { o.leader.Annotations["leader"] = "../pg-0" }, `Patroni's leader key has no valid name: "../pg-0"`},
		"a config of a few": {func(o *patroniObjects) { o.config.Annotations["config"] = `{"ttl":"x"}` }, "the configuration in Patroni's object demo-config cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			o := objectsOfDemo()
			c.change(&o)
			require.Equal(t, []string{c.hold}, factsOf(o).Holds)
		})
	}
}

func TestPatroniObjects_Missing_AreUnknown(t *testing.T) {
	f := factsOf(patroniObjects{})
	require.Empty(t, f.Leader)
	require.True(t, f.RenewTime.IsZero())
	require.Empty(t, f.FailoverVersion)
	require.NotEmpty(t, f.Holds)
}

func TestPatroniObjects_Request_IsSaid(t *testing.T) {
	for want, annotations := range map[string]map[string]string{
		"a switchover from pg-0 to pg-1":       {"leader": "pg-0", "member": "pg-1"},
		"a switchover from pg-0 to any member": {"leader": "pg-0"},
		"a switchover from any member to pg-1": {"member": "pg-1"},
		"a switchover from pg-0 to pg-1 at 2026-11-27T04:00:00+00:00": {
			"leader": "pg-0", "member": "pg-1", "scheduled_at": "2026-11-27T04:00:00+00:00",
		},
	} {
		o := objectsOfDemo()
		o.failover = note(annotations)
		require.Equal(t, want, factsOf(o).Pending)
	}
}

func TestStatus_OfEachVersion_IsRead(t *testing.T) {
	for status, want := range map[string]Member{
		status4: {
			LiveState: LiveState{Role: Primary, State: "running", Version: "4.0.7", Timeline: 2, LSN: 67109192}, API: Address{Port: 8008},
		},
		status3: {
			LiveState: LiveState{Role: Primary, State: "running", Version: "3.0.2", Timeline: 1, LSN: 50331976, NoFailover: true},
			API:       Address{TLS: true, Port: 8009},
		},
		`{"conn_url":"a","api_url":"gopher://x:70","role":"replica","state":"running","replication_state":"streaming","tags":{"failover_priority":0}}`: {
			LiveState: LiveState{Role: Replica, State: "streaming", NoFailover: true},
		},
		`{"conn_url":"a","api_url":"http://x:99999/","role":"king","state":"` + "a\\nb" + `"}`: {},
	} {
		var m Member
		s, written := readStatus(map[string]string{escort.PatroniStatus: status})
		require.True(t, written, status)
		s.addTo(&m)
		require.Equal(t, want, m, status)
	}
}

const answer4 = `{"state":"running","postmaster_start_time":"2026-11-26 11:59:00.1+00:00","role":"primary","server_version":170002,
"xlog":{"location":67109192},"timeline":2,"replication":[{"usename":"replicator","application_name":"pg-1","client_addr":"10.99.0.12",
"state":"streaming","sync_state":"quorum","sync_priority":1},{"usename":"etl","application_name":"debezium","state":"streaming","sync_state":"async"}],
"dcs_last_seen":1795000000,"database_system_identifier":"7577","patroni":{"version":"4.0.7","scope":"demo","name":"pg-0"},"pause":true}`

const answer3 = `{"state":"running","role":"replica","server_version":150014,"xlog":{"received_location":50331976,"replayed_location":50331900,
"replayed_timestamp":null,"paused":false},"timeline":1,"dcs_last_seen":1795000000,"patroni":{"version":"3.0.2","scope":"demo"},"tags":{"nofailover":true}}`

func TestReadPatroni_OfEachVersion_IsRead(t *testing.T) {
	i := Identity{Operator: Patroni, Scope: "demo"}
	got, err := readPatroni([]byte(answer4), i, Member{Ref: drain.Ref{Name: "pg-0"}})
	require.NoError(t, err)
	require.Equal(t, LiveState{
		Live: true, Role: Primary, State: "running", Version: "4.0.7", Timeline: 2, LSN: 67109192, Paused: true,
		Senders: []Sender{{Name: "pg-1", State: "streaming", Sync: true}, {Name: "debezium", State: "streaming"}},
	}, got)
	got, err = readPatroni([]byte(answer3), i, Member{Ref: drain.Ref{Name: "pg-1"}})
	require.NoError(t, err)
	require.Equal(t, LiveState{
		Live: true, Role: Replica, State: "running", Version: "3.0.2", Timeline: 1, LSN: 50331976, NoFailover: true,
	}, got)
}

func TestReadPatroni_NotTheMember_IsAnError(t *testing.T) {
	i := Identity{Operator: Patroni, Scope: "demo"}
	for text, m := range map[string]Member{
		answer4:              {Ref: drain.Ref{Name: "pg-1"}},
		`{"role":"primary"}`: {}, `[]`: {}, `<html>`: {}, ``: {},
		`{"patroni":{"scope":"other","name":"pg-0"}}`: {Ref: drain.Ref{Name: "pg-0"}},
	} {
		got, err := readPatroni([]byte(text), i, m)
		require.Error(t, err, text)
		require.Zero(t, got)
	}
}

// What a pod sends must neither break the function nor get into a text unbounded.
func FuzzRead_AnyAnswer_IsBounded(f *testing.F) {
	for _, text := range []string{answer4, answer3, status4, `{"currentLsn":"0/3000148","isPrimary":true}`, `{"config":"{"}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		live, err := readPatroni([]byte(text), Identity{Scope: "demo"}, Member{})
		require.True(t, err != nil || live.Live)
		live, err = readCNPG([]byte(text))
		require.True(t, err != nil || live.Live)
		for _, s := range []string{live.State, live.Version} {
			require.LessOrEqual(t, len(s), 64)
		}
		require.LessOrEqual(t, len(live.Senders)+len(live.LogicalSlots), 2*maxSenders)
		_, _ = Settings{Postgres: settings.Postgres}.Recognize(pod(map[string]string{"cluster-name": "demo"}, text))
		o := objectsOfDemo()
		o.config.Annotations["config"], o.leader.Annotations["leader"], o.failover = text, text, note(map[string]string{"member": text})
		facts := factsOf(o)
		require.LessOrEqual(t, len(facts.Pending), drain.MaxText)
		require.True(t, facts.Leader == "" || escort.IsName(facts.Leader))
		var c cnpgCluster
		if json.Unmarshal([]byte(text), &c) == nil {
			c.read(&facts)
		}
	})
}

func TestParseLSN_AsPostgreSQLWrites_RoundTrips(t *testing.T) {
	for text, want := range map[string]LSN{"0/3000148": 0x3000148, "16/B374D848": 0x16B374D848, "FFFFFFFF/FFFFFFFF": 1<<64 - 1} {
		got, err := ParseLSN(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, text, got.String())
	}
	for _, text := range []string{"", "0", "0/", "/0", "g/0", "0/123456789", "-1/0", "0/0/0"} {
		_, err := ParseLSN(text)
		require.ErrorIs(t, err, errLSN, text)
	}
}
