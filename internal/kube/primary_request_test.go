package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/escort"
	"quiesce/test/env/cloudnativepg"
)

// defineClusters has the API server know CloudNativePG's own definition of Clusters.
var defineClusters = sync.OnceValue(func() error {
	l, err := sharedLab()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	path, err := cloudnativepg.Definition(ctx, filepath.Join("..", ".."))
	if err != nil {
		return err
	}
	_, err = l.Kubectl(ctx, "apply", "--server-side", "--filename", path)
	return err
})

// clusterEnv is the Cluster pg of the namespace db, which infra/rbac-postgres-cnpg.yaml is for. Its client has the permissions of that file.
// The Cluster is at rest, and its primary is pg-1.
type clusterEnv struct {
	*labEnv
	admins *Client
	path   string
}

func newClusterEnv(t *testing.T) *clusterEnv {
	t.Helper()
	e := &clusterEnv{labEnv: newLabEnv(t), path: "/apis/postgresql.cnpg.io/v1/namespaces/db/clusters/pg"}
	require.NoError(t, defineClusters())
	var err error
	e.admins, err = New(e.Admin())
	require.NoError(t, err)
	body := `{"apiVersion":"postgresql.cnpg.io/v1","kind":"Cluster","metadata":{"name":"pg"},"spec":{"instances":3,"storage":{"size":"1Gi"}}}`
	folder := strings.TrimSuffix(e.path, "/pg")
	e.eventually(func() bool { // the API server serves a new kind after a moment
		err = e.admins.core.Post().AbsPath(folder).SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(t.Context()).Error()
		return err == nil
	})
	t.Cleanup(func() {
		require.NoError(t, e.admins.core.Delete().AbsPath(e.path).Do(context.Background()).Error())
	})
	e.setStatus(restingStatus)
	return e
}

const restingStatus = `{"currentPrimary":"pg-1","targetPrimary":"pg-1","phase":"Cluster in healthy state","phaseReason":"","instances":3,` +
	`"readyInstances":3,"instanceNames":["pg-1","pg-2","pg-3"],"timelineID":1,"latestGeneratedNode":3,"targetPrimaryTimestamp":"2026-11-26T21:00:00.000000Z"}`

func (e *clusterEnv) setStatus(status string) {
	e.Helper()
	patch := []byte(`{"status":` + status + `}`)
	require.NoError(e, e.admins.core.Patch(types.MergePatchType).AbsPath(e.path, "status").Body(patch).Do(e.Context()).Error())
}

// clusterObject is what these tests look at.
type clusterObject struct {
	Metadata struct {
		ResourceVersion string
		Generation      int
	}
	Spec   json.RawMessage
	Status map[string]any
}

func (e *clusterEnv) read() (o clusterObject) {
	e.Helper()
	text, err := e.admins.core.Get().AbsPath(e.path).DoRaw(e.Context())
	require.NoError(e, err)
	require.NoError(e, json.Unmarshal(text, &o))
	return o
}

func TestRequestPrimary_ClusterAtRest_OnlyTheRequestIsWritten(t *testing.T) {
	e := newClusterEnv(t)
	before := e.read()
	request := escort.NewPrimary{
		Namespace: "db", Cluster: "pg", Version: before.Metadata.ResourceVersion, Candidate: "pg-2",
		At: time.Date(2026, 11, 26, 22, 0, 1, 500_000_000, time.UTC),
	}
	var version string
	e.eventually(func() (known bool) {
		var err error
		version, err = e.client.RequestPrimary(t.Context(), request)
		return err == nil
	})
	after := e.read()
	require.Equal(t, version, after.Metadata.ResourceVersion)
	require.Equal(t, before.Metadata.Generation, after.Metadata.Generation)
	require.Equal(t, before.Spec, after.Spec)
	for key, value := range map[string]string{
		"targetPrimary": "pg-2", "targetPrimaryTimestamp": "2026-11-26T22:00:01.500000Z", "phase": "Switchover in progress", "phaseReason": "Switching over to pg-2",
	} {
		require.Equal(t, value, after.Status[key])
		before.Status[key] = value
	}
	require.Equal(t, before.Status, after.Status)

	_, err := e.client.RequestPrimary(t.Context(), request)
	require.ErrorIs(t, err, escort.ErrConflict)
	request.Version, request.Candidate = version, "pg-3"
	_, err = e.client.RequestPrimary(t.Context(), request)
	require.ErrorContains(t, err, "quiesce must not ask for another primary while its operator works on the cluster", "an accepted request is never changed")
	require.Equal(t, "pg-2", e.read().Status["targetPrimary"])
}

// A request without the version that was read could overwrite another's, and names become parts of a path.
func TestRequestPrimary_OtherRequest_IsNotSent(t *testing.T) {
	c := &Client{}
	good := escort.NewPrimary{Namespace: "db", Cluster: "pg", Version: "7", Candidate: "pg-2", At: time.Now()}
	for name, change := range map[string]func(*escort.NewPrimary){
		"no version": func(p *escort.NewPrimary) { p.Version = "" }, "no candidate": func(p *escort.NewPrimary) { p.Candidate = "" },
		"no time": func(p *escort.NewPrimary) { p.At = time.Time{} }, "a path": func(p *escort.NewPrimary) { p.Cluster = "../pods" },
		"a path as namespace": func(p *escort.NewPrimary) { p.Namespace = "a/b" }, "a candidate with spaces": func(p *escort.NewPrimary) { p.Candidate = "pg 2" },
	} {
		p := good
		change(&p)
		_, err := c.RequestPrimary(t.Context(), p)
		require.ErrorIs(t, err, errNoPrimary, name)
	}
}

const primariesPolicy = "quiesce-primaries"

// wanted is the patch of a switchover, with further fields of the status.
func (e *clusterEnv) wanted(what, candidate, phase, more string) attempt {
	body := fmt.Sprintf(`{"status":{"targetPrimary":%q,"targetPrimaryTimestamp":"2026-11-26T22:00:00.000000Z","phase":%q,"phaseReason":"x"%s}}`,
		candidate, phase, more)
	return merge(what, e.path+"/status", body, primariesPolicy)
}

// An attacker with the role can ask a Cluster at rest for another of its instances, and no more.
func TestStolenRole_Clusters_OnlyARequestForAnotherPrimary(t *testing.T) {
	e := newClusterEnv(t)
	const switching = "Switchover in progress"
	allowed := e.wanted("a request", "pg-2", switching, "")
	spec := `{"spec":{"instances":1}}`
	refused := []attempt{
		e.wanted("an instance that does not exist", "pg-9", switching, ""),
		e.wanted("no instance", "", switching, ""),
		e.wanted("a failover", "pending", switching, ""),
		e.wanted("the present primary", "pg-1", switching, ""),
		e.wanted("another phase", "pg-2", "Cluster in healthy state", ""),
		e.wanted("another current primary", "pg-2", switching, `,"currentPrimary":"pg-2"`),
		e.wanted("other instances", "pg-2", switching, `,"instanceNames":["pg-2"]`),
		e.wanted("a new field", "pg-2", switching, `,"timelineID":2`),
		e.wanted("a field that is gone", "pg-2", switching, `,"readyInstances":null`),
		e.wanted("a long text", "pg-2", switching, `,"targetPrimaryTimestamp":"`+strings.Repeat("1", 400)+`"`),
		merge("no target", e.path+"/status", `{"status":{"phase":"Switchover in progress"}}`, primariesPolicy),
		merge("no status", e.path+"/status", `{"status":null}`, primariesPolicy),
		merge("the specification", e.path, spec, ""),
		merge("an annotation", e.path, `{"metadata":{"annotations":{"cnpg.io/fencedInstances":"[\"*\"]"}}}`, ""),
		deletion("the end of a cluster", e.path, "", ""),
		deletion("the end of all clusters", strings.TrimSuffix(e.path, "/pg"), "", ""),
		{what: "all clusters", verb: http.MethodGet, path: strings.TrimSuffix(e.path, "/pg")},
		merge("another cluster", strings.TrimSuffix(e.path, "/pg")+"/other/status", allowed.body, "").invalid(),
		create("a cluster", strings.TrimSuffix(e.path, "/pg"), `{"apiVersion":"postgresql.cnpg.io/v1","kind":"Cluster","metadata":{"name":"attacker"},"spec":{"instances":1,"storage":{"size":"1Gi"}}}`, ""),
		merge("a pooler", "/apis/postgresql.cnpg.io/v1/namespaces/db/poolers/pg", `{"spec":{"pgbouncer":{"paused":true}}}`, "").invalid(),
	}
	e.eventually(func() bool { return refused[0].isRefused(refused[0].send(t, e.client)) })
	for _, r := range refused {
		t.Run("refused: "+r.what, func(t *testing.T) {
			err := r.send(t, e.client)
			require.True(t, r.isRefused(err), "%v", err)
			if !r.broken {
				require.NoError(t, r.send(t, e.admins), "others may")
			}
		})
	}
	t.Run("allowed: a request", func(t *testing.T) { require.NoError(t, allowed.send(t, e.client)) })
	for name, status := range map[string]string{
		"a request was accepted": `{"targetPrimary":"pg-3"}`, "the operator works": `{"targetPrimary":"pg-1","phase":"Upgrading cluster"}`,
		"no primary": `{"currentPrimary":"","targetPrimary":"","phase":"Cluster in healthy state"}`,
	} {
		t.Run("refused when "+name, func(t *testing.T) {
			e.setStatus(status)
			err := allowed.send(t, e.client)
			require.True(t, allowed.isRefused(err), "%v", err)
			require.NoError(t, allowed.send(t, e.admins), "others may")
		})
		e.setStatus(restingStatus)
	}
}

// The specification in a patch of the status is not written: the API server ignores it.
func TestStolenRole_SpecificationInAPatchOfTheStatus_IsIgnored(t *testing.T) {
	e := newClusterEnv(t)
	before := e.read()
	body := []byte(`{"spec":{"instances":1},"metadata":{"annotations":{"x":"y"}},"status":{"targetPrimary":"pg-2","phase":"Switchover in progress"}}`)
	e.eventually(func() bool {
		return e.client.core.Patch(types.MergePatchType).AbsPath(e.path, "status").Body(body).Do(t.Context()).Error() == nil
	})
	after := e.read()
	require.Equal(t, "pg-2", after.Status["targetPrimary"])
	require.Equal(t, before.Spec, after.Spec)
	require.Equal(t, before.Metadata.Generation, after.Metadata.Generation)
}

func TestRequestPrimary_PermissionMissing_IsSaid(t *testing.T) {
	e := newClusterEnv(t)
	client := clientInGroup(t, e.Lab, "nobody")
	_, err := client.RequestPrimary(t.Context(), escort.NewPrimary{Namespace: "db", Cluster: "pg", Version: "1", Candidate: "pg-2", At: time.Now()})
	require.ErrorIs(t, err, escort.ErrForbidden)
	require.True(t, apierrors.IsForbidden(err))
}
