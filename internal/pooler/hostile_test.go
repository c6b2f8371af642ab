package pooler

import (
	"context"
	"errors"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	"quiesce/test/parts/bubble"
)

// hostilePods are pods that Kubernetes stores, and a few that it does not.
func hostilePods() map[string]func(*escort.Pod) {
	owner := func(kind, name, uid string) func(*escort.Pod) {
		return func(p *escort.Pod) { p.Owner = escort.Owner{Kind: kind, Name: name, UID: uid} }
	}
	container := func(c escort.Container) func(*escort.Pod) {
		return func(p *escort.Pod) { p.Containers = []escort.Container{c} }
	}
	probe := func(port int, window time.Duration) func(*escort.Pod) {
		return container(escort.Container{Name: "pgbouncer", Liveness: escort.LivenessProbe{Port: port, Window: window}})
	}
	return map[string]func(*escort.Pod){
		"empty":                  func(p *escort.Pod) { *p = escort.Pod{Pod: drain.Pod{Ref: p.Ref}} },
		"no labels":              func(p *escort.Pod) { p.Labels, p.Annotations = nil, nil },
		"no containers":          func(p *escort.Pod) { p.Containers = nil },
		"owner without a kind":   owner("", "a", "b"),
		"owner without anything": owner("", "", ""),
		"owner with a path":      owner("ReplicaSet", "../../../../../../api/v1/namespaces/T/pods/bait", "b"),
		"owner with a long UID":  owner("ReplicaSet", "a", strings.Repeat("u", 1<<20)),
		"negative port":          container(escort.Container{Name: "pgbouncer", Ports: []escort.Port{{Number: -1}}}),
		"odd port":               container(escort.Container{Name: "pgbouncer", Ports: []escort.Port{{Name: "pgbouncer", Number: math.MaxInt}}}),
		"many ports":             container(escort.Container{Name: "pgbouncer", Ports: make([]escort.Port, 1000)}),
		"empty hook":             container(escort.Container{Name: "pgbouncer", PreStop: []string{""}}),
		"long hook":              container(escort.Container{Name: "pgbouncer", PreStop: []string{"sh", "-c", strings.Repeat("sleep 48h; kill ", 1000)}}),
		"negative probe":         probe(-1, -time.Hour),
		"endless probe":          probe(6432, math.MaxInt64),
		"negative probe window":  probe(6432, math.MinInt64),
		"negative grace":         func(p *escort.Pod) { p.Grace = math.MinInt64 },
		"endless grace":          func(p *escort.Pod) { p.Grace = math.MaxInt64 },
		"no address":             func(p *escort.Pod) { p.IP = "" },
		"terminating for ever":   func(p *escort.Pod) { p.Deleted = time.Now().Add(1000 * time.Hour) },
		"terminating since ever": func(p *escort.Pod) { p.Deleted = time.Unix(1, 0) },
	}
}

// hostileSelectors are answers about what selects a pod.
func hostileSelectors() map[string]escort.Selectors {
	many := slices.Repeat([]escort.Selector{{Name: "s", Labels: map[string]string{"app": "pgbouncer"}}}, 1000)
	return map[string]escort.Selectors{
		"nothing":              {},
		"owner without labels": {Owner: &escort.Selector{}, Replicas: 2},
		"keys of nothing":      {Owner: &escort.Selector{Labels: map[string]string{"app": "pgbouncer"}, Keys: []string{"", "app", "\x00"}}, Replicas: 2},
		"negative replicas":    {Owner: &escort.Selector{Labels: map[string]string{"app": "pgbouncer"}}, Replicas: math.MinInt},
		"endless replicas":     {Owner: &escort.Selector{Labels: map[string]string{"app": "pgbouncer"}}, Replicas: math.MaxInt},
		"empty parts":          {Services: []escort.Selector{{}}, PDBs: []escort.PDB{{}}, Policies: []escort.Selector{{}}},
		"a PDB that never allows": {PDBs: []escort.PDB{{NeverReason: "x", DisruptionsAllowed: math.MinInt}}, Replicas: 1,
			Owner: &escort.Selector{Labels: map[string]string{"app": "pgbouncer"}}},
		"many PDBs": {PDBs: slices.Repeat([]escort.PDB{{Selector: escort.Selector{Name: strings.Repeat("p", 253)}}}, 1000)},
		"many":      {Owner: &many[0], Replicas: 2, Services: many, Policies: many},
	}
}

// Whatever Kubernetes answers, an escort ends without a panic, and evicts the pod or says why not.
func TestRun_HostileAnswers_PodIsEvicted(t *testing.T) {
	for podName, change := range hostilePods() {
		for name, selected := range hostileSelectors() {
			bubble.Test(t, func(t *testing.T) {
				w := newCluster(nil)
				w.pod.Labels["app"] = "pgbouncer"
				w.dial = func(context.Context) (net.Conn, error) { return nil, errors.New("refused") }
				change(w.pod)
				w.selectors = selected
				w.peers = slices.Repeat([]escort.Peer{{}, {Ready: true, Terminating: true}, {NodeLeaving: true}}, 100)
				e, request := w.escort(minute), w.request(t)
				terminating := !w.pod.Deleted.IsZero()
				_, err := e.Run(t.Context(), request)
				require.NoError(t, err, "%s, %s", podName, name)
				require.Equal(t, !terminating, slices.Contains(w.callList(), "evicted"), "%s, %s: %v", podName, name, w.callList())
				require.NotPanics(t, func() { e.Advise(t.Context(), request.Pod) }, "%s, %s", podName, name)
				require.NotPanics(t, func() { _, _ = e.ShutDown(t.Context(), request) }, "%s, %s", podName, name)
			})
		}
	}
}

// These need no console, and a panic in them would come after the first change.
func TestPreflight_HostileAnswers_NoPanic(t *testing.T) {
	for podName, change := range hostilePods() {
		for name, selected := range hostileSelectors() {
			pod := newPod()
			pod.Labels["app"] = "pgbouncer"
			change(pod)
			version := pgbouncer.Version{Major: 1, Minor: 24}
			a := adviceInput{
				Settings: Settings{PGBouncer: config.PGBouncer{Strategy: config.StrategyAuto, Timeout: minute}}, pod: *pod, selectors: selected,
				probe: probe{version: &version, modes: []string{"session"}},
			}
			require.NotPanics(t, func() {
				for _, warning := range advise(a) {
					require.LessOrEqual(t, len(warning), 1000)
				}
				preflight(*pod, selected)
				port := ConsolePort(0, *pod)
				require.Positive(t, port)
				require.LessOrEqual(t, port, maxPort)
			}, "%s, %s", podName, name)
		}
	}
}

// Who can write the status of pods must not choose what the function connects to.
func TestDial_AddressOfNoPod_IsRefused(t *testing.T) {
	for address, ok := range map[string]bool{
		"10.0.0.1": true, "100.64.3.4": true, "fd00:ec2::1": true, "2600:1f14::7": true, "192.168.1.1": true,
		"": false, "localhost": false, "pgbouncer.db.svc": false, "127.0.0.1": false, "::1": false, "::ffff:127.0.0.1": false, "0.0.0.0": false,
		"::": false, "169.254.169.254": false, "169.254.100.1": false, "fe80::1": false, "fe80::1%eth0": false, "224.0.0.1": false, "10.0.0.1:22": false,
		"10.0.0.1/8": false, "fd00::1%lo": false,
	} {
		w, dialed := newCluster(nil), ""
		e := w.escort(minute)
		e.Dial = func(_ context.Context, address string) (net.Conn, error) {
			dialed = address
			return nil, errors.New("refused")
		}
		r := e.begin(w.request(t))
		r.pod, r.pod.IP = *w.pod, address
		_, err := r.consoles().Open(t.Context(), r.pod)
		require.Error(t, err)
		require.Equal(t, ok, dialed != "", address)
		if ok {
			require.Equal(t, net.JoinHostPort(address, "6432"), dialed)
		}
	}
}

// wrongPod is a cluster that answers with another pod than the one that was asked for.
type wrongPod struct{ *fakeCluster }

func (w wrongPod) Inspect(context.Context, drain.Ref) (*escort.Pod, error) {
	pod := newPod()
	pod.Ref = drain.Ref{Namespace: "kube-system", Name: "bait", UID: "another"}
	return pod, nil
}

func TestInspect_AnotherPod_IsAnError(t *testing.T) {
	w := newCluster(nil)
	_, err := inspect(t.Context(), wrongPod{w}, newPod().Ref)
	require.EqualError(t, err, "asked for pod db/pgbouncer-a and found kube-system/bait")
}

// A console may invent new clients for every look.
func TestHasNew_TwoLooks_OnlyNewAddressesCount(t *testing.T) {
	look := func(clients ...string) addresses {
		present := addresses{}
		for _, address := range clients {
			present.add(pgbouncer.Client{Addr: address})
		}
		return present
	}
	require.False(t, look().hasNew(look()))
	require.True(t, look("a").hasNew(look()))
	require.False(t, look("a").hasNew(look("a", "b")), "a client that left")
	require.True(t, look("a", "c").hasNew(look("a", "b")))
	require.Len(t, look("a", "a"), 1, "an address counts once")
}
