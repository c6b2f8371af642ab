package kube

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// databaseEnv is a lab environment whose namespace has a database: its client may read it and write its failover object.
func databaseEnv(t *testing.T, kind string) *labEnv {
	e := newLabEnv(t)
	group := "databases-" + e.namespace
	e.client = clientInGroup(t, e.Lab, group)
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: group}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{kind}, ResourceNames: []string{"pg-failover"}, Verbs: []string{"get", "patch"}},
		{APIGroups: []string{""}, Resources: []string{kind}, Verbs: []string{"create"}},
		{APIGroups: []string{""}, Resources: []string{"pods", "services"}, Verbs: []string{"list"}},
		{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"list"}},
	}}
	rbac := e.Client().RbacV1()
	_, err := rbac.Roles(e.namespace).Create(t.Context(), role, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = rbac.RoleBindings(e.namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: group}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: group},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: group}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	return e
}

// awaitPermission waits until the API server knows the Role.
func (e *labEnv) awaitPermission(kind string) {
	e.eventually(func() bool {
		_, err := e.client.Annotated(e.Context(), kind, e.namespace, "pg-failover")
		return err == nil
	})
}

func TestRequestSwitchover_BothKinds_CreatedChangedAndWithdrawn(t *testing.T) {
	for _, kind := range annotatedKinds {
		t.Run(kind, func(t *testing.T) {
			e := databaseEnv(t, kind)
			e.awaitPermission(kind)
			at := time.Date(2026, 11, 26, 21, 0, 1, 500_000_000, time.UTC)
			request := escort.Failover{
				Kind: kind, Namespace: e.namespace, Name: "pg-failover", Labels: map[string]string{"cluster-name": "pg"},
				Leader: "pg-0", Candidate: "pg-1", At: at,
			}
			version, err := e.client.RequestSwitchover(t.Context(), request)
			require.NoError(t, err)
			found, err := e.client.Annotated(t.Context(), kind, e.namespace, "pg-failover")
			require.NoError(t, err)
			require.Equal(t, version, found.ResourceVersion)
			require.Equal(t, map[string]string{"cluster-name": "pg"}, found.Labels)
			require.Equal(t, map[string]string{"leader": "pg-0", "member": "pg-1", "scheduled_at": "2026-11-26T21:00:01.500000+00:00"}, found.Annotations)

			_, err = e.client.RequestSwitchover(t.Context(), request)
			require.True(t, apierrors.IsAlreadyExists(err), "it was not there when it was read: %v", err)
			stale := request
			stale.Version = "1"
			_, err = e.client.RequestSwitchover(t.Context(), stale)
			require.True(t, apierrors.IsConflict(err), "%v", err)
			require.True(t, apierrors.IsConflict(e.client.WithdrawSwitchover(t.Context(), request, "1")))

			require.NoError(t, e.client.WithdrawSwitchover(t.Context(), request, version))
			found, err = e.client.Annotated(t.Context(), kind, e.namespace, "pg-failover")
			require.NoError(t, err)
			require.Empty(t, found.Annotations)
			require.Equal(t, map[string]string{"cluster-name": "pg"}, found.Labels)

			request.Version, request.Candidate = found.ResourceVersion, "pg-2"
			_, err = e.client.RequestSwitchover(t.Context(), request)
			require.NoError(t, err)
			found, err = e.client.Annotated(t.Context(), kind, e.namespace, "pg-failover")
			require.NoError(t, err)
			require.Equal(t, "pg-2", found.Annotations["member"])
		})
	}
}

// A candidate without a leader would be a failover, and every other object of Patroni is its own.
func TestRequestSwitchover_OtherRequest_IsNotSent(t *testing.T) {
	c := &Client{}
	good := escort.Failover{Kind: "endpoints", Namespace: "db", Name: "pg-failover", Leader: "a", Candidate: "b", At: time.Now()}
	for name, change := range map[string]func(*escort.Failover){
		"no leader": func(f *escort.Failover) { f.Leader = "" }, "no candidate": func(f *escort.Failover) { f.Candidate = "" },
		"no time": func(f *escort.Failover) { f.At = time.Time{} }, "the configuration": func(f *escort.Failover) { f.Name = "pg-config" },
		"the leader's key": func(f *escort.Failover) { f.Name = "pg" }, "another kind": func(f *escort.Failover) { f.Kind = "secrets" },
		"a path": func(f *escort.Failover) { f.Name = "../x-failover" }, "a path as namespace": func(f *escort.Failover) { f.Namespace = "a/b" },
	} {
		f := good
		change(&f)
		_, err := c.RequestSwitchover(t.Context(), f)
		require.ErrorIs(t, err, errNoFailover, name)
	}
	require.ErrorIs(t, c.WithdrawSwitchover(t.Context(), good, ""), errNoFailover)
}

func TestMarkedLease_HolderDies_TheMarkStays(t *testing.T) {
	e := newLabEnv(t)
	name := "quiesce-postgres-" + e.namespace
	held, err := e.client.AcquireMarkedLease(t.Context(), name)
	require.NoError(t, err)
	require.NotNil(t, held)
	require.Empty(t, held.Mark())
	require.NoError(t, held.SetMark(t.Context(), "paused: a"))
	require.Error(t, held.SetMark(t.Context(), strings.Repeat("x", escort.MaxRecord+1)))
	marks, err := e.client.Marks(t.Context(), name)
	require.NoError(t, err)
	require.Len(t, marks, 1)
	require.WithinDuration(t, time.Now(), marks[0].Taken, time.Minute)
	marks[0].Taken = time.Time{}
	require.Equal(t, []escort.Mark{{Lease: name, Text: "paused: a", Held: true}}, marks)
	other, err := e.client.AcquireMarkedLease(t.Context(), name)
	require.NoError(t, err)
	require.True(t, other == nil, "a nil interface")

	e.expire(held.(markedLease).lease)
	marks, err = e.client.Marks(t.Context(), name)
	require.NoError(t, err)
	require.Equal(t, []escort.Mark{{Lease: name, Text: "paused: a"}}, marks)
	next, err := e.client.AcquireMarkedLease(t.Context(), name)
	require.NoError(t, err)
	require.Equal(t, "paused: a", next.Mark())
	require.NoError(t, held.Release(), "it is another's")
	require.ErrorIs(t, held.SetMark(t.Context(), ""), errLeaseLost)
	require.NoError(t, next.Release(), "it stays, for whoever resumes")

	last, err := e.client.AcquireMarkedLease(t.Context(), name)
	require.NoError(t, err)
	require.Equal(t, "paused: a", last.Mark())
	require.NoError(t, last.SetMark(t.Context(), ""))
	require.NoError(t, last.Release())
	_, err = e.lease(name)
	require.True(t, apierrors.IsNotFound(err))
}

func TestServices_PodsAreReady_AddressesAndReadyPods(t *testing.T) {
	e := databaseEnv(t, "endpoints")
	e.awaitPermission("endpoints")
	e.apply(deploymentManifest)
	e.apply(`
apiVersion: v1
kind: Service
metadata: {name: pg}
spec: {selector: {track: stable}, ports: [{port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {none: here}, ports: [{port: 5432}]}
`)
	pods := e.awaitReady("track=stable", 2)
	e.eventually(func() bool {
		services, err := e.client.Services(t.Context(), e.namespace)
		require.NoError(t, err)
		byName := map[string]escort.Service{}
		for _, s := range services {
			byName[s.Name] = s
		}
		if len(byName["pg"].Ready) != 2 {
			return false
		}
		require.Equal(t, escort.Service{Namespace: e.namespace, Name: "headless"}, byName["headless"])
		require.Len(t, byName["pg"].Addresses, 1)
		require.Contains(t, byName["pg"].Ready, pods[0].Status.PodIP)
		return true
	})
	found, err := e.client.PodsMatching(t.Context(), e.namespace, func(p drain.Pod) bool { return p.Name == pods[0].Name })
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, *ToEscortPod(e.pod(pods[0].Name)), found[0])
}
