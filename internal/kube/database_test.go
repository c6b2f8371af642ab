package kube

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/postgres"
	"quiesce/test/parts/need"
)

// applyRole applies a manifest of infra that is a template for namespace db, in the test's own namespace.
func (e *labEnv) applyRole(file string, replace ...string) {
	e.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "infra", file))
	require.NoError(e, err)
	manifest := strings.NewReplacer(append(replace, "namespace: db", "namespace: "+e.namespace)...).Replace(string(text))
	path := filepath.Join(e.TempDir(), file)
	require.NoError(e, os.WriteFile(path, []byte(manifest), 0o600))
	require.NoError(e, e.Apply(e.Context(), path))
}

var patroniSettings = postgres.Settings{Postgres: config.Postgres{MaxLag: 16 << 20, ScopeLabel: "cluster-name"}}

// patroni is a Patroni cluster as the API server has it: what Patroni writes, without Patroni.
func (e *labEnv) patroni(mode postgres.Mode) postgres.Identity {
	e.Helper()
	kind, leader := "Endpoints", "demo"
	if mode == postgres.ConfigMaps {
		kind, leader = "ConfigMap", "demo-leader"
	}
	renewed := time.Now().UTC().Format("2006-01-02T15:04:05.000000+00:00")
	object := func(name, annotations string) string {
		return fmt.Sprintf("---\napiVersion: v1\nkind: %s\nmetadata:\n  name: %s\n  labels: {cluster-name: demo}\n  annotations: {%s}\n", kind, name, annotations)
	}
	manifests := object(leader, `leader: demo-0, optime: "67109192", ttl: "30", renewTime: "`+renewed+`"`) +
		object("demo-config", `config: '{"loop_wait":10,"ttl":30,"maximum_lag_on_failover":1048576}'`) + object("demo-sync", `leader: "demo-0"`)
	for i, role := range []string{"primary", "replica"} {
		status := fmt.Sprintf(`{"conn_url":"postgres://10.0.0.%d:5432/postgres","api_url":"http://10.0.0.%d:8008/patroni","state":"running",`+
			`"role":"%s","version":"4.0.7","xlog_location":67109192,"timeline":1}`, i, i, role)
		manifests += fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: demo-%d\n  labels: {cluster-name: demo, role: %s}\n"+
			"  annotations: {status: '%s'}\nspec:\n  nodeName: node-%s\n  containers: [{name: main, image: postgres}]\n", i, role, status, string(rune('a'+i)))
	}
	e.apply(manifests)
	pod := e.pod("demo-0")
	identity, member := patroniSettings.Recognize(toPod(pod))
	require.True(e, member)
	return identity
}

func TestDatabaseFacts_FromTheAPIServer_InBothModes(t *testing.T) {
	for _, mode := range []postgres.Mode{postgres.Endpoints, postgres.ConfigMaps} {
		t.Run(string(mode), func(t *testing.T) {
			e := newLabEnv(t)
			identity := e.patroni(mode)
			e.applyRole("rbac-postgres-patroni.yaml")
			observer := postgres.Observer{Settings: patroniSettings, Cluster: e.client}
			var f postgres.Facts
			e.eventually(func() (done bool) {
				var err error
				f, err = observer.Facts(t.Context(), identity)
				return err == nil && len(f.Members) == 2 && f.Members[0].Ready && f.Members[1].Ready
			})
			require.Equal(t, mode, f.Mode)
			require.Equal(t, "demo-0", f.Leader)
			require.Equal(t, []string{"demo-0"}, f.Leaders)
			require.Equal(t, "4.0.7", f.Version)
			require.Equal(t, "0/4000148", f.LeaderLSN.String())
			require.Empty(t, f.FailoverVersion)
			require.Equal(t, "demo", f.ObjectLabels["cluster-name"])
			leader, replica := f.Member("demo-0"), f.Member("demo-1")
			require.Equal(t, "node-a", leader.Node)
			require.Equal(t, "us-east-1a", leader.Zone)
			require.False(t, leader.NodeCreated.IsZero())
			require.Empty(t, replica.Leaving)
			require.Equal(t, postgres.Replica, replica.Role)
			require.Equal(t, postgres.Address{Port: 8008}, replica.API)
		})
	}
}

func TestDatabaseFacts_WithoutTheRole_NameThePermission(t *testing.T) {
	e := newLabEnv(t)
	identity := e.patroni(postgres.Endpoints)
	_, err := (&postgres.Observer{Settings: patroniSettings, Cluster: e.client}).Facts(t.Context(), identity)
	require.ErrorIs(t, err, escort.ErrForbidden)
	require.ErrorContains(t, err, `cannot get resource "endpoints"`)
	_, err = e.client.GetFromPod(t.Context(), refOf(e.pod("demo-0")), 8008, false, "/patroni")
	require.ErrorIs(t, err, escort.ErrForbidden)
	require.ErrorContains(t, err, `cannot get resource "pods/proxy"`)
}

func TestCustom_NoSuchKind_IsNoError(t *testing.T) {
	e := newLabEnv(t)
	client, err := New(e.Admin())
	require.NoError(t, err)
	found, err := client.Custom(t.Context(), "postgresql.cnpg.io/v1", "clusters", e.namespace, "pg", &struct{}{})
	require.NoError(t, err)
	require.False(t, found)
	_, err = client.Custom(t.Context(), "postgresql.cnpg.io/v1", "clusters", e.namespace, "../pg", &struct{}{})
	require.Error(t, err)
}

func TestNodeFate_EachReasonToLeave_IsSaid(t *testing.T) {
	for want, change := range map[string]func(*corev1.Node){
		"":                              func(*corev1.Node) {},
		"it is cordoned":                func(n *corev1.Node) { n.Spec.Unschedulable = true },
		"it is being terminated":        func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{terminatingTaint} },
		"Cluster Autoscaler removes it": func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "ToBeDeletedByClusterAutoscaler"}} },
		"Karpenter removes it":          func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "a"}, {Key: "karpenter.sh/disrupted"}} },
		"its kubelet does not report":   func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnreachable}} },
		"it is being deleted":           func(n *corev1.Node) { n.DeletionTimestamp = &metav1.Time{} },
	} {
		node := &corev1.Node{}
		change(node)
		require.Equal(t, want, WhyLeaving(node))
	}
	e := newLabEnv(t)
	fate, err := e.client.NodeFate(t.Context(), "node-gone")
	require.NoError(t, err)
	require.Equal(t, "it does not exist", fate.Leaving)
}

func TestVolumeFollows_EachClaim_OnlyEBSThatOutlivesThePod(t *testing.T) {
	e := newLabEnv(t)
	for provisioner, want := range map[string]bool{"ebs.csi.aws.com": true, "rancher.io/local-path": false, "": false} {
		name := "data-" + strconv.Itoa(len(provisioner))
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{provisionerAnnotation: provisioner}}}
		claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		claim.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: quantity.MustParse("1Gi")}
		_, err := e.Client().CoreV1().PersistentVolumeClaims(e.namespace).Create(t.Context(), claim, metav1.CreateOptions{})
		require.NoError(t, err)
		follows, err := e.client.VolumeFollows(t.Context(), e.namespace, name)
		require.NoError(t, err)
		require.Equal(t, want, follows, provisioner)
	}
	ephemeral := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{
		Name: "pg-0-data", Annotations: map[string]string{provisionerAnnotation: "ebs.csi.aws.com"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "pg-0", UID: "uid"}},
	}}
	ephemeral.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	ephemeral.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: quantity.MustParse("1Gi")}
	_, err := e.Client().CoreV1().PersistentVolumeClaims(e.namespace).Create(t.Context(), ephemeral, metav1.CreateOptions{})
	require.NoError(t, err)
	follows, err := e.client.VolumeFollows(t.Context(), e.namespace, "pg-0-data")
	require.NoError(t, err)
	require.False(t, follows, "a claim that a pod owns is deleted with it")
	follows, err = e.client.VolumeFollows(t.Context(), e.namespace, "gone")
	require.NoError(t, err)
	require.False(t, follows)
}

// ownAddress returns an address of this machine that the API server's proxy accepts: not the loopback one.
func ownAddress(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, address := range all {
		if network, is := address.(*net.IPNet); is && network.IP.IsGlobalUnicast() && network.IP.To4() != nil {
			return network.IP.String()
		}
	}
	need.Part(t, errors.New("this machine has only a loopback address"))
	return ""
}

// servePod serves HTTP as a pod with this name, and returns the port.
func (e *labEnv) servePod(name string, handler http.HandlerFunc) (ref drain.Ref, port int) {
	e.Helper()
	listener, err := (&net.ListenConfig{}).Listen(e.Context(), "tcp", ownAddress(e.T)+":0")
	require.NoError(e, err)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	e.Cleanup(func() { _ = server.Close() })
	pod := podNamed(name, "")
	pod.Namespace, pod.Spec = e.namespace, corev1.PodSpec{SchedulerName: "none", Containers: []corev1.Container{{Name: "main", Image: "web"}}}
	created, err := e.Client().CoreV1().Pods(e.namespace).Create(e.Context(), pod, metav1.CreateOptions{})
	require.NoError(e, err)
	address := listener.Addr().(*net.TCPAddr)
	patch := fmt.Sprintf(`{"status":{"podIP":"%s","podIPs":[{"ip":"%s"}]}}`, address.IP, address.IP)
	_, err = e.Client().CoreV1().Pods(e.namespace).Patch(e.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	require.NoError(e, err)
	return refOf(created), address.Port
}

func TestGetFromPod_ThroughTheAPIServer_IsBounded(t *testing.T) {
	e := newLabEnv(t)
	asked := make(chan string, 100)
	pod, port := e.servePod("demo-0", func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		switch r.URL.Path {
		case "/large":
			_, _ = w.Write(make([]byte, maxPodAnswer+1))
		case "/busy":
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		case "/elsewhere":
			http.Redirect(w, r, "http://198.51.100.1/token", http.StatusTemporaryRedirect)
		default:
			_, _ = w.Write([]byte(`{"role":"primary"}`))
		}
	})
	e.applyRole("rbac-postgres-patroni.yaml", "demo-0:8008", "demo-0:"+strconv.Itoa(port))
	e.eventually(func() bool {
		body, err := e.client.GetFromPod(t.Context(), pod, port, false, "/patroni")
		return err == nil && string(body) == `{"role":"primary"}`
	})
	for len(asked) > 0 {
		<-asked
	}
	for _, path := range []string{"/large", "/busy", "/elsewhere"} {
		_, err := e.client.GetFromPod(t.Context(), pod, port, false, path)
		require.Error(t, err, path)
		require.Equal(t, path, <-asked)
		require.Empty(t, asked, "asked once")
	}
	_, err := e.client.GetFromPod(t.Context(), pod, port+1, false, "/patroni")
	require.ErrorIs(t, err, escort.ErrForbidden, "the Role names a port")
	_, err = e.client.GetFromPod(t.Context(), drain.Ref{Namespace: e.namespace, Name: "demo-0:1/x"}, port, false, "/")
	require.ErrorContains(t, err, "not the name of a pod")
}

// A redirect must not take the function's token anywhere.
func TestClient_Redirect_IsNotFollowed(t *testing.T) {
	followed := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed = true }))
	defer elsewhere.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	client, err := New(&rest.Config{Host: server.URL, BearerToken: "secret"})
	require.NoError(t, err)
	_, err = client.GetFromPod(t.Context(), drain.Ref{Namespace: "db", Name: "demo-0"}, 8008, false, "/patroni")
	require.Error(t, err)
	require.False(t, followed)
	_, err = client.Annotated(t.Context(), "endpoints", "db", "demo")
	require.Error(t, err)
	require.False(t, followed)
}

// What an attacker with the role can do to a database, with the Role of one cluster.
func TestPatroniRole_Stolen_OnlyRequestsASwitchover(t *testing.T) {
	e := newLabEnv(t)
	for _, mode := range []postgres.Mode{postgres.Endpoints, postgres.ConfigMaps} {
		e.patroni(mode)
	}
	e.applyRole("rbac-postgres-patroni.yaml")
	admins, err := New(e.Admin())
	require.NoError(t, err)
	namespace := "/api/v1/namespaces/" + e.namespace
	const policy = "quiesce-switchovers"
	request := func(kind, name, rest string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"%s","metadata":{"name":"%s","labels":{"cluster-name":"demo"}%s`, kind, name, rest)
	}
	for kind, plural := range map[string]string{"Endpoints": "endpoints", "ConfigMap": "configmaps"} {
		path := namespace + "/" + plural
		asked := `,"annotations":{"leader":"demo-0","member":"demo-1","scheduled_at":"2026-11-26T12:00:00+00:00"}}}`
		contents := map[string]string{"Endpoints": `"subsets":[{"addresses":[{"ip":"10.9.9.9"}],"ports":[{"port":5432}]}]}`, "ConfigMap": `"data":{"a":"b"}}`}[kind]
		refused := []attempt{
			create("another object", path, request(kind, "web", asked), policy),
			create("the leader's object of another cluster", path, request(kind, "other-leader", asked), policy),
			create("a request with contents", path, request(kind, "x-failover", "},"+contents), policy),
			create("another annotation", path, request(kind, "x-failover", `,"annotations":{"config":"{}"}}}`), policy),
			create("a long annotation", path, request(kind, "x-failover", `,"annotations":{"member":"`+strings.Repeat("a", 254)+`"}}}`), policy),
			create("a finalizer", path, request(kind, "x-failover", `,"finalizers":["example.com/never"]}}`), policy),
			create("an owner", path, request(kind, "x-failover", `,"ownerReferences":[`+owner+`]}}`), policy),
			merge("the configuration", path+"/demo-config", `{"metadata":{"annotations":{"config":"{}"}}}`, ""),
			deletion("the end of the configuration", path+"/demo-config", "", ""),
			{what: "all objects", verb: http.MethodGet, path: path},
			{what: "another object", verb: http.MethodGet, path: path + "/web", broken: true},
		}
		leader := map[string]string{"Endpoints": "/demo", "ConfigMap": "/demo-leader"}[kind]
		refused = append(refused, merge("the leader", path+leader, `{"metadata":{"annotations":{"leader":"demo-1"}}}`, ""))
		e.eventually(func() bool { return refused[0].isRefused(refused[0].send(t, e.client)) })
		e.requireAttempts(admins, kind, refused, []attempt{create("a request", path, request(kind, "demo-failover", asked), "")})

		e.apply(request(kind, "demo-failover", `}}`))
		e.requireAttempts(admins, kind, []attempt{
			merge("contents", path+"/demo-failover", "{"+contents, policy),
			merge("another annotation", path+"/demo-failover", `{"metadata":{"annotations":{"config":"{}"}}}`, policy),
			merge("no annotations at all", path+"/demo-failover", `{"metadata":{"annotations":null}}`, policy),
			merge("a label", path+"/demo-failover", `{"metadata":{"labels":{"cluster-name":"other"}}}`, policy),
			merge("a finalizer", path+"/demo-failover", `{"metadata":{"finalizers":["example.com/never"]}}`, policy),
			deletion("the end of the request's object", path+"/demo-failover", "", ""),
		}, []attempt{
			{what: "what is asked for", verb: http.MethodGet, path: path + "/demo-failover"},
			merge("a request", path+"/demo-failover", `{"metadata":{"annotations":{"leader":"demo-0","member":"demo-1"}}}`, ""),
			merge("a request that is withdrawn", path+"/demo-failover", `{"metadata":{"annotations":{"leader":null,"member":null,"scheduled_at":null}}}`, ""),
		})
	}
	e.requireAttempts(admins, "pods", []attempt{
		{what: "another port", verb: http.MethodGet, path: namespace + "/pods/demo-0:5432/proxy/", broken: true},
		{what: "another pod", verb: http.MethodGet, path: namespace + "/pods/demo-2:8008/proxy/", broken: true},
		{what: "a switchover over HTTP", verb: http.MethodPost, path: namespace + "/pods/demo-0:8008/proxy/switchover", broken: true},
		{what: "a change of settings", verb: http.MethodPatch, path: namespace + "/pods/demo-0:8008/proxy/config", patch: types.MergePatchType, body: "{}", broken: true},
		{what: "a forwarded port", verb: http.MethodPost, path: namespace + "/pods/demo-0/portforward", broken: true},
		{what: "secrets", verb: http.MethodGet, path: namespace + "/secrets"},
	}, nil)
}

// requireAttempts requires that the function's role may send none of the refused requests and all of the allowed ones.
func (e *labEnv) requireAttempts(admins *Client, kind string, refused, allowed []attempt) {
	e.Helper()
	for _, r := range refused {
		err := r.send(e.T, e.client)
		require.True(e, r.isRefused(err), "%s, %s: %v", kind, r.what, err)
		if !r.broken {
			require.NoError(e, r.send(e.T, admins), "%s, %s: others may", kind, r.what)
		}
	}
	for _, r := range allowed {
		require.NoError(e, r.send(e.T, e.client), "%s, %s", kind, r.what)
	}
}

func TestWithPermission_OnlyForbidden_IsMarked(t *testing.T) {
	require.ErrorIs(t, withPermission(apierrors.NewForbidden(schema.GroupResource{Resource: "endpoints"}, "x", errors.New("no"))), escort.ErrForbidden)
	require.NotErrorIs(t, withPermission(apierrors.NewNotFound(schema.GroupResource{Resource: "endpoints"}, "x")), escort.ErrForbidden)
}
