package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// api is a Kubernetes API with what a test puts there.
type api struct {
	pods    []escort.Pod
	objects map[string]*escort.Annotated // by kind/name
	fates   map[string]escort.NodeFate
	answers map[string]string // by pod and path
	custom  string
	follows map[string]bool
	zones   map[string][]string // by claim
	staying map[string]bool     // zones that have another node
	errs    map[string]error    // by kind, or pod
	asked   []string
}

func (a *api) Annotated(_ context.Context, kind, _, name string) (*escort.Annotated, error) {
	return a.objects[kind+"/"+name], a.errs[kind]
}

func (a *api) PodsByLabel(context.Context, string, map[string]string) ([]escort.Pod, error) {
	return a.pods, a.errs["pods"]
}

func (a *api) NodeFate(_ context.Context, name string) (escort.NodeFate, error) {
	a.asked = append(a.asked, name)
	return a.fates[name], a.errs["nodes"]
}

func (a *api) GetFromPod(_ context.Context, pod drain.Ref, _ int, _ bool, path string) ([]byte, error) {
	return []byte(a.answers[pod.Name+path]), a.errs[pod.Name]
}

func (a *api) Custom(_ context.Context, _, _, _, _ string, into any) (bool, error) {
	if a.custom == "" {
		return false, a.errs["clusters"]
	}
	return true, json.Unmarshal([]byte(a.custom), into)
}

func (a *api) VolumeZones(_ context.Context, _, claim, here string) ([]string, error) {
	if zones, has := a.zones[claim]; has {
		return zones, a.errs["volumes"]
	}
	return nil, a.errs["volumes"]
}

func (a *api) OtherNodeStays(_ context.Context, zones []string, _ string) (bool, error) {
	return a.staying[strings.Join(zones, ",")], a.errs["zone"]
}

func (a *api) VolumeFollows(_ context.Context, _, claim string) (bool, error) {
	return a.follows[claim], a.errs["claims"]
}

func (a *api) Inspect(context.Context, drain.Ref) (*escort.Pod, error) { return nil, nil }

func podOf(name, status string) escort.Pod {
	p := escort.Pod{Pod: pod(map[string]string{"cluster-name": "demo"}, status), Node: "node-" + name, IP: "10.0.0.1", Ready: true}
	p.Name, p.UID = name, "uid-"+name
	return p
}

const replicaStatus = `{"conn_url":"postgres://10.99.0.12:5432/postgres","api_url":"http://10.99.0.12:8008/patroni","state":"running",` +
	`"role":"replica","version":"4.0.7","xlog_location":67109000,"timeline":2,"replication_state":"streaming"}`

// demoAPI is a cluster of two with Patroni in Endpoints.
func demoAPI() *api {
	o := objectsOfDemo()
	o.leader.Annotations["renewTime"] = time.Now().UTC().Format("2006-01-02T15:04:05.000000+00:00")
	return &api{
		pods: []escort.Pod{podOf("pg-0", status4), podOf("pg-1", replicaStatus)},
		objects: map[string]*escort.Annotated{
			"endpoints/demo": o.leader, "endpoints/demo-config": o.config, "endpoints/demo-sync": o.sync, "endpoints/demo-failover": o.failover,
		},
		fates: map[string]escort.NodeFate{"node-pg-0": {Zone: "a", Leaving: "it is being terminated"}, "node-pg-1": {Zone: "b"}},
		answers: map[string]string{
			"pg-0/patroni": `{"state":"running","role":"primary","xlog":{"location":67109192},"timeline":2,"patroni":{"version":"4.0.7","scope":"demo","name":"pg-0"}}`,
			"pg-1/patroni": `{"state":"running","role":"replica","replication_state":"streaming","xlog":{"received_location":67109192,"replayed_location":67109000},` +
				`"timeline":2,"patroni":{"version":"4.0.7","scope":"demo","name":"pg-1"}}`,
		},
		errs: map[string]error{}, follows: map[string]bool{},
	}
}

var demo = Identity{Operator: Patroni, Namespace: "db", Cluster: "demo", Scope: "demo", Members: map[string]string{"cluster-name": "demo"}}

func TestObserve_HealthyCluster_CanMove(t *testing.T) {
	f, err := Observe(t.Context(), &Observer{Settings: settings, Cluster: demoAPI()}, demo)
	require.NoError(t, err)
	require.Equal(t, Endpoints, f.Mode)
	require.Equal(t, []string{"pg-0"}, f.Leaders)
	require.True(t, f.LeaderLive)
	require.Equal(t, "it is being terminated", f.LeaderMember().Leaving)
	require.Equal(t, "b", f.Member("pg-1").Zone)
	require.Equal(t, "pg-1", Assess(f, settings, time.Now()).Candidate.Name)
}

func TestObserve_OtherPods_AreNoMembers(t *testing.T) {
	a := demoAPI()
	pooler, finished := podOf("pooler", ""), podOf("old", replicaStatus)
	finished.Finished = true
	pending := podOf("pg-2", replicaStatus)
	pending.Node = ""
	a.pods = append(a.pods, pooler, finished, pending)
	f, err := Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, demo)
	require.NoError(t, err)
	require.Len(t, f.Members, 3)
	require.Equal(t, "it has none yet", f.Member("pg-2").Leaving)
	require.ElementsMatch(t, []string{"node-pg-0", "node-pg-1"}, a.asked, "each node once")
}

func TestObserve_MemberSilent_IsSaid(t *testing.T) {
	a := demoAPI()
	a.errs["pg-1"] = escort.ErrForbidden
	a.answers["pg-0/patroni"] = `{"patroni":{"scope":"other"}}`
	f, err := Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, demo)
	require.NoError(t, err)
	require.Equal(t, "permission missing", f.Member("pg-1").Failure)
	require.Contains(t, f.LeaderMember().Failure, "another member answered")
	require.False(t, f.LeaderLive)
	require.NotEmpty(t, Assess(f, settings, time.Now()).Holds)
}

func TestObserve_MembersDisagree_Holds(t *testing.T) {
	for want, change := range map[string]func(*api){
		"pg-0 should lead, but pg-1 says that it does": func(a *api) {
			a.answers["pg-0/patroni"] = strings.Replace(a.answers["pg-0/patroni"], "primary", "replica", 1)
			a.answers["pg-1/patroni"] = strings.Replace(a.answers["pg-1/patroni"], "replica", "primary", 1)
		},
		"2 members say that they lead: pg-0, pg-2": func(a *api) { // the last word of a member that is silent
			a.pods = append(a.pods, podOf("pg-2", status4))
			a.errs["pg-2"] = net.ErrClosed
		},
	} {
		a := demoAPI()
		change(a)
		f, err := Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, demo)
		require.NoError(t, err)
		require.Contains(t, Assess(f, settings, time.Now()).Holds, want)
	}
}

func TestObserve_ObjectsOfBothKinds_TheLaterKeyCounts(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*api)
		mode   Mode
		err    error
	}{
		"one is stale": {func(a *api) {
			stale := *a.objects["endpoints/demo"]
			stale.Annotations = maps.Clone(stale.Annotations)
			a.objects["configmaps/demo-leader"] = &stale
			a.objects["configmaps/demo-config"] = a.objects["endpoints/demo-config"]
			a.objects["endpoints/demo"].Annotations["renewTime"] = "2026-11-01T00:00:00+00:00"
		}, ConfigMaps, nil},
		"a Service's Endpoints without a leader": {func(a *api) {
			for name, object := range maps.Clone(a.objects) {
				if name == "endpoints/demo" {
					a.objects["configmaps/demo-leader"] = object
				}
				a.objects["configmaps"+name[len("endpoints"):]] = object
			}
			a.objects["endpoints/demo"] = note(nil)
		}, ConfigMaps, nil},
		"the other may not be read": {func(a *api) { a.errs["configmaps"] = escort.ErrForbidden }, Endpoints, nil},
		"none may be read": {func(a *api) {
			a.objects = nil
			a.errs["configmaps"], a.errs["endpoints"] = escort.ErrForbidden, escort.ErrForbidden
		}, "", escort.ErrForbidden},
		"there are none":     {func(a *api) { a.objects = nil }, "", errNoObjects},
		"the server is down": {func(a *api) { a.errs["configmaps"] = net.ErrClosed }, "", net.ErrClosed},
		"no pods":            {func(a *api) { a.errs["pods"] = net.ErrClosed }, "", net.ErrClosed},
		"no nodes":           {func(a *api) { a.errs["nodes"] = net.ErrClosed }, "", net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			a := demoAPI()
			c.change(a)
			f, err := Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, demo)
			require.ErrorIs(t, err, c.err)
			require.Equal(t, c.mode, f.Mode)
		})
	}
}

func TestObserve_SingleMember_KnowsWhereItsDataAre(t *testing.T) {
	for want, c := range map[string]struct {
		claims  []string
		follows map[string]bool
		err     error
	}{
		"":                                {[]string{"data"}, map[string]bool{"data": true}, nil},
		"it has no PersistentVolumeClaim": {nil, nil, nil},
		"the volume of claim wal is deleted with its pod, or is not one that AWS attaches elsewhere": {[]string{"data", "wal"}, map[string]bool{"data": true}, nil},
		"no answer": {[]string{"data"}, nil, errors.New("no answer")},
	} {
		a := demoAPI()
		a.pods = a.pods[:1]
		a.pods[0].Claims, a.follows, a.errs["claims"] = c.claims, c.follows, c.err
		f, err := Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, demo)
		require.NoError(t, err)
		require.Equal(t, want, f.LeaderMember().Disk)
	}
}

// A claim beside the data protects nothing.
func TestObserve_DataOnAVolumeOfTheNode_DoNotFollow(t *testing.T) {
	a := demoAPI()
	a.pods = a.pods[:1]
	a.pods[0].Claims, a.follows, a.pods[0].NodeVolume = []string{"backup"}, map[string]bool{"backup": true}, "pgdata"
	f, err := Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, demo)
	require.NoError(t, err)
	require.Equal(t, "its data directory is in volume pgdata, which is on the node", f.LeaderMember().Disk)
}

// CloudNativePG can have a claim of each pod for temporary files, which is deleted with the pod.
func TestObserve_CloudNativePGHasScratchSpace_ItsDataFollowAllTheSame(t *testing.T) {
	a, identity := cnpgAPI()
	a.pods[0].Claims = []string{"pg-1", "pg-1-scratch-data"}
	a.follows = map[string]bool{"pg-1": true}
	a.errs["pg-2"] = net.ErrClosed
	f, err := Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, identity)
	require.NoError(t, err)
	require.Empty(t, f.LeaderMember().Disk)
	a.follows = nil
	f, err = Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, identity)
	require.NoError(t, err)
	require.Contains(t, f.LeaderMember().Disk, "claim pg-1 ")
}

const cluster130 = `{"metadata":{"annotations":{}},"spec":{"instances":2,"postgresql":{"synchronous":{"method":"any","number":1,"dataDurability":"required"}}},
"status":{"currentPrimary":"pg-1","targetPrimary":"pg-1","currentPrimaryTimestamp":"2026-11-26T11:00:00.123456Z","phase":"Cluster in healthy state",
"instances":2,"readyInstances":2,"timelineID":3,"instancesReportedState":{"pg-1":{"isPrimary":true,"timeLineID":3},"pg-2":{"isPrimary":false,"timeLineID":2}}}}`

func cnpgAPI() (*api, Identity) {
	a := &api{custom: cluster130, errs: map[string]error{}, answers: map[string]string{
		"pg-1/pg/status": `{"currentLsn":"0/6000060","isPrimary":true,"timeLineID":3,"instanceManagerVersion":"1.30.0","isArchivingWAL":true,"pod":null,
			"lastArchivedWALTime":"2026-11-26 12:00:00.1+00","lastFailedWALTime":"-",
			"replicationInfo":[{"applicationName":"pg-2","state":"streaming","receivedLsn":"0/6000060","syncState":"quorum"}]}`,
		"pg-2/pg/status": `{"receivedLsn":"0/6000060","replayLsn":"0/6000060","isPrimary":false,"isWalReceiverActive":true,"timeLineID":2,"instanceManagerVersion":"1.30.0"}`,
	}}
	labels := map[string]string{"cnpg.io/cluster": "pg", "cnpg.io/podRole": "instance"}
	for _, name := range []string{"pg-1", "pg-2"} {
		p := escort.Pod{Pod: pod(labels, ""), Node: "node-" + name, Ready: true}
		p.Name = name
		a.pods = append(a.pods, p)
	}
	identity, _ := settings.Recognize(a.pods[0].Pod)
	return a, identity
}

func TestObserve_CloudNativePG_CanMove(t *testing.T) {
	a, identity := cnpgAPI()
	f, err := Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, identity)
	require.NoError(t, err)
	require.True(t, f.Synchronous && f.Strict && f.LeaderLive)
	require.Equal(t, 1, f.SyncNumber)
	require.Equal(t, "0/6000060", f.LeaderLSN.String())
	got := Assess(f, settings, time.Now())
	require.Empty(t, got.Holds)
	require.Equal(t, "pg-2", got.Candidate.Name)
}

func TestObserve_CloudNativePGNotAtRest_Holds(t *testing.T) {
	replace := func(path []string, value any) func(*api) {
		return func(a *api) {
			var object map[string]any
			_ = json.Unmarshal([]byte(a.custom), &object)
			at := object
			for _, key := range path[:len(path)-1] {
				at = at[key].(map[string]any)
			}
			at[path[len(path)-1]] = value
			text, _ := json.Marshal(object)
			a.custom = string(text)
		}
	}
	for want, change := range map[string]func(*api){
		"a switchover from pg-1 to pg-2 has been requested":                                                  replace([]string{"status", "targetPrimary"}, "pg-2"),
		`the Cluster's phase is "Switchover in progress", not "Cluster in healthy state"`:                    replace([]string{"status", "phase"}, "Switchover in progress"),
		"only 1 of 2 instances are ready":                                                                    replace([]string{"status", "readyInstances"}, 1),
		"the operator does not reconcile the Cluster: its annotation cnpg.io/reconciliationLoop is disabled": replace([]string{"metadata", "annotations"}, map[string]string{cnpgReconciles: "disabled"}),
		`instances are fenced: ["pg-2"]`:                                                                     replace([]string{"metadata", "annotations"}, map[string]string{cnpgFenced: `["pg-2"]`}),
		"the cluster should follow another one, but its leader does not say so":                              replace([]string{"spec", "replica"}, map[string]any{"enabled": true}),
	} {
		a, identity := cnpgAPI()
		change(a)
		f, err := Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, identity)
		require.NoError(t, err)
		require.Equal(t, []string{want}, Assess(f, settings, time.Now()).Holds)
	}
	a, identity := cnpgAPI()
	a.custom = ""
	f, err := Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, identity)
	require.NoError(t, err)
	require.Contains(t, Assess(f, settings, time.Now()).Holds, "there is no Cluster pg")
	a.errs["clusters"] = escort.ErrForbidden
	_, err = Observe(t.Context(), &Observer{Settings: settings, Cluster: a}, identity)
	require.ErrorIs(t, err, escort.ErrForbidden)
}

func TestReadCNPG_WhatDisturbsAMove_IsRead(t *testing.T) {
	got, err := readCNPG([]byte(`{"isPrimary":true,"currentLsn":"0/1","pgStatBasebackupsInfo":[{"phase":"streaming"}],
		"replicationSlotsInfo":[{"slotName":"_cnpg_pg_2","slotType":"physical"},{"slotName":"cdc","slotType":"logical"}],
		"lastArchivedWALTime":"2026-11-26 12:00:00+00","lastFailedWALTime":"2026-11-26 12:00:01.5+00"}`))
	require.NoError(t, err)
	require.Equal(t, 1, got.BaseBackups)
	require.Equal(t, []string{"cdc"}, got.LogicalSlots)
	require.Equal(t, time.Date(2026, 11, 26, 12, 0, 1, 500_000_000, time.UTC), got.ArchiveFailed.UTC())
	got, err = readCNPG([]byte(`{"isPgRewindRunning":true,"isWalReceiverActive":true}`))
	require.NoError(t, err)
	require.Equal(t, "running pg_rewind", got.State)
}

// A member answers over its address, and a hostile one is bounded.
func TestDirect_Answers_AreBounded(t *testing.T) {
	followed := false
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/patroni":
			_, _ = w.Write([]byte("{}"))
		case "/large":
			_, _ = w.Write(make([]byte, maxLiveAnswer+1))
		case "/headers":
			w.Header().Set("X-Large", strings.Repeat("x", 2*maxLiveHeader))
		case "/redirect":
			http.Redirect(w, r, "/followed", http.StatusFound)
		case "/followed":
			followed = true
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	for _, server := range []*httptest.Server{httptest.NewServer(handler), httptest.NewTLSServer(handler)} {
		defer server.Close()
		dialed := ""
		get := Direct(func(ctx context.Context, address string) (net.Conn, error) {
			dialed = address
			return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
		})
		m := Member{IP: "10.0.0.7", API: Address{Port: 8008, TLS: server.TLS != nil}}
		body, err := get(t.Context(), m, "/patroni")
		require.NoError(t, err)
		require.Equal(t, "{}", string(body))
		require.Equal(t, "10.0.0.7:8008", dialed)
		for _, path := range []string{"/large", "/headers", "/redirect", "/other"} {
			_, err := get(t.Context(), m, path)
			require.Error(t, err, path)
		}
		_, err = get(t.Context(), Member{IP: "example.com"}, "/patroni")
		require.Error(t, err)
	}
	require.False(t, followed)
}
