package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"quiesce/internal/kube"
	"quiesce/internal/termination"
	"quiesce/test/parts/lab"
	"quiesce/test/parts/need"
	"quiesce/test/parts/pgbouncer"
	"quiesce/test/parts/postgres"
)

// pausedWorld is a cluster with a real pooler that a function has left paused.
type pausedWorld struct {
	*world
	pooler       *pgbouncer.Pooler
	console      *pgconn.PgConn
	pod, nodeUID string
	password     string // a file
}

// hostAddress returns an address of this machine that a pod may have: no console is looked for on the loopback interface.
func hostAddress(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range all {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().Is4() && !prefix.Addr().IsLoopback() && !prefix.Addr().IsLinkLocalUnicast() {
			return prefix.Addr().String()
		}
	}
	need.Part(t, errors.New("this machine has no address beside the loopback interface's"))
	return ""
}

func newPausedWorld(t *testing.T) *pausedWorld {
	t.Helper()
	pgbouncer.Require(t)
	address := hostAddress(t)
	w := &pausedWorld{world: newWorld(t)}
	w.pooler = pgbouncer.Start(t, pgbouncer.Newer, pgbouncer.Options{Settings: map[string]string{"listen_addr": "127.0.0.1," + address}})
	w.apply("../rbac.yaml")
	w.addNode("", node("node-a1", "eu-west-1a"))
	_, port, err := net.SplitHostPort(w.pooler.Addr)
	require.NoError(t, err)
	w.applyText(fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: db}
---
apiVersion: v1
kind: Secret
metadata: {name: pgbouncer-admin, namespace: db}
stringData: {username: %q, password: %q}
---
apiVersion: v1
kind: Pod
metadata:
  name: pgbouncer-0
  namespace: db
  labels: {app.kubernetes.io/name: pgbouncer}
  annotations: {%s: %s}
spec:
  containers: [{name: pgbouncer, image: pgbouncer, ports: [{containerPort: %s}]}]
`, pgbouncer.Admin.Name, pgbouncer.Admin.Password, lab.PodIP, address, port))
	require.Eventually(t, func() bool { return w.read("pod", "-n", "db", "pgbouncer-0", ".status.podIP") == address }, settleTimeout, time.Second)
	w.pod, w.nodeUID = w.read("pod", "-n", "db", "pgbouncer-0", ".metadata.uid"), w.read("node", "node-a1", ".metadata.uid")
	w.password = filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(w.password, []byte(pgbouncer.Admin.Password+"\n"), 0o600))
	w.console, err = postgres.Connect(t.Context(), w.pooler.Addr, pgbouncer.Admin, "pgbouncer")
	require.NoError(t, err)
	return w
}

func (w *world) applyText(manifest string) {
	w.Helper()
	file := filepath.Join(w.TempDir(), "manifest.yaml")
	require.NoError(w, os.WriteFile(file, []byte(manifest), 0o600))
	w.apply(file)
}

// awaitAllowed waits until the API server knows a role. It learns of roles by a watch.
func (w *world) awaitAllowed(user string, args ...string) {
	w.Helper()
	require.Eventually(w, func() bool {
		_, err := w.lab.Kubectl(w.Context(), append([]string{"auth", "can-i", "--quiet", "--as", user}, args...)...)
		return err == nil
	}, settleTimeout, 50*time.Millisecond)
}

// read returns one field of an object.
func (w *world) read(args ...string) string {
	w.Helper()
	path := args[len(args)-1]
	out, err := w.lab.Kubectl(w.Context(), append(append([]string{"get"}, args[:len(args)-1]...), "-o", "jsonpath={"+path+"}")...)
	require.NoError(w, err)
	return out
}

// pause pauses the pooler, as a function does before it dies: with a note on a Lease, which expires after 30 s.
func (w *pausedWorld) pause(what, lease, annotations string, renewed time.Time) {
	w.Helper()
	if !w.paused() {
		pgbouncer.Exec(w.T, w.console, what)
	}
	require.True(w, w.paused())
	w.applyText(fmt.Sprintf(`
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata:
  name: %s
  namespace: quiesce
  annotations: {%s}
spec: {holderIdentity: quiesce-gone, leaseDurationSeconds: 30, renewTime: %q}
`, lease, annotations, renewed.UTC().Format("2006-01-02T15:04:05.000000Z")))
}

// paused reports whether the database is paused, or the whole pooler.
func (w *pausedWorld) paused() bool {
	w.Helper()
	return w.valueOf("SHOW DATABASES", "name", pgbouncer.App.Name, "paused") == "1" || w.valueOf("SHOW STATE", "key", "paused", "value") == "yes"
}

// valueOf returns a value of the row that has another value.
func (w *pausedWorld) valueOf(command, key, of, wanted string) string {
	w.Helper()
	results, err := w.console.Exec(w.Context(), command).ReadAll()
	require.NoError(w, err)
	column := map[string]int{}
	for n, f := range results[0].FieldDescriptions {
		column[f.Name] = n
	}
	for _, row := range results[0].Rows {
		if string(row[column[key]]) == of {
			return string(row[column[wanted]])
		}
	}
	w.Fatalf("%s has no row of %s", command, of)
	return ""
}

// mark is the mark of a move (internal/postgres/mark.go).
func (w *pausedWorld) mark() string {
	text, err := json.Marshal(map[string]any{
		"namespace": "db", "cluster": "orders", "since": time.Now(), "until": time.Now(), "leader": "orders-0", "candidate": "orders-1",
		"poolers": []map[string]any{{"Namespace": "db", "Name": "pgbouncer-0", "UID": w.pod, "databases": []string{pgbouncer.App.Name}}},
	})
	require.NoError(w, err)
	return fmt.Sprintf("quiesce/paused: '%s'", text)
}

// records are what a drain keeps of the pod and of its node (internal/pooler/record.go).
func (w *pausedWorld) records() string {
	return fmt.Sprintf(`quiesce/escort.%s: '{"phase":"poolers","escort":{"strategy":"evict","paused":true}}', `+
		`quiesce/closed.%s: '{"name":"node-a1","uid":%q}'`, w.pod, w.nodeUID, w.nodeUID)
}

const moveLease = "quiesce-postgres-0123abcd"

// resume runs the command against the pod's address: simulated kubelets forward no ports.
func (w *pausedWorld) resume(args ...string) ended {
	w.Helper()
	return quiescectl(w.T, []string{"KUBECONFIG=" + w.lab.Kubeconfig(), "PASSWORD=" + pgbouncer.Admin.Password}, append([]string{"resume", "--connect-via", "podIP"}, args...)...)
}

// The function is gone for good after PAUSE. A person has a kubeconfig, and nothing else.
func TestResume_FunctionGoneAfterPause_PoolerContinues(t *testing.T) {
	w := newPausedWorld(t)
	secret := []string{"--console-secret", "db/pgbouncer-admin"}

	got := w.resume()
	require.Zero(t, got.status, got.progress)
	require.Equal(t, "no pooler is paused by quiesce\n", got.out)

	renewed := time.Now()
	w.pause("PAUSE "+pgbouncer.App.Name, moveLease, w.mark(), renewed)
	got = w.resume(secret...)
	require.Equal(t, exitFindings, got.status, got.progress)
	require.Contains(t, got.out, "held     <none>     <none>\n")
	require.Contains(t, got.out, "lease "+moveLease+" is held by quiesce-gone, renewed "+clock(renewed))
	require.Contains(t, got.out, "run it again after "+clock(renewed.Add(30*time.Second)))
	require.Contains(t, got.out, "--force takes it at once")
	require.True(t, w.paused(), "only the holder of a Lease resumes")

	w.pause("PAUSE "+pgbouncer.App.Name, moveLease, w.mark(), time.Now().Add(-time.Minute))
	got = w.resume()
	require.Equal(t, exitError, got.status)
	require.Contains(t, got.progress, "the login of their consoles is not known\nname quiesce.yaml with --config")
	got = w.resume("--user", pgbouncer.Admin.Name, "--password-env", "HOME")
	require.Equal(t, exitFindings, got.status)
	require.Contains(t, got.out, "failed   <none>     <none>\n")
	require.Contains(t, got.out, "still paused: db/pgbouncer-0")
	require.True(t, w.paused())

	w.applyText(readerManifest)
	w.awaitAllowed("reader", "list", "leases.coordination.k8s.io", "-n", "quiesce")
	reader := "KUBECONFIG=" + impersonating(t, w.lab.Kubeconfig(), "reader")
	got = quiescectl(t, []string{reader, "PASSWORD=" + pgbouncer.Admin.Password}, "resume", "--user", pgbouncer.Admin.Name, "--password-env", "PASSWORD")
	require.Equal(t, exitFindings, got.status, got.progress)
	require.Regexp(t, `leases.* is forbidden: .*: you need permission in the cluster to create, get, list, update and delete Leases`, got.out)
	require.True(t, w.paused())

	require.Contains(t, readme, "$ quiescectl resume "+strings.Join(secret, " ")+"\nSTATUS    CLUSTERS    POOLERS\nresumed   db/orders   <none>\n")
	got = w.resume(secret...)
	require.Zero(t, got.status, got.out+got.progress)
	require.Equal(t, "STATUS    CLUSTERS    POOLERS\nresumed   db/orders   <none>\n", got.out)
	require.False(t, w.paused())
	require.Contains(t, w.read("leases", "-n", "quiesce", ".items[*].metadata.annotations"), "resumed", "a command of the switchover may still come")
	require.Equal(t, "no pooler is paused by quiesce\n", w.resume(secret...).out, "twice does no harm")
	require.Equal(t, "no pooler is paused by quiesce\n", w.resume().out, "nothing is paused, so no login is needed")

	w.pause("PAUSE "+pgbouncer.App.Name, moveLease, w.mark(), time.Now())
	require.Contains(t, w.resume("--force", "--user", pgbouncer.Admin.Name, "--password-file", w.password).out, "resumed   db/orders   <none>\n")
	require.False(t, w.paused())
}

// readerManifest lets the user reader list Leases, and nothing else.
const readerManifest = `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: quiesce}
rules: [{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: quiesce}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: reader}]
`

// A drain by hand left a pooler paused on a node that stays.
func TestResume_FunctionGoneInADrain_PoolerContinuesAndNodeStaysClosed(t *testing.T) {
	w := newPausedWorld(t)
	_, err := w.lab.Kubectl(t.Context(), "cordon", "node-a1")
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "quiesce.yaml")
	settings := func(phase string) {
		require.NoError(t, os.WriteFile(file, []byte("{cluster: prod, autoScalingGroups: [workers-a], mode: drain, phases: [{"+phase+", "+
			"escort: {pgbouncer: {secretRef: {namespace: db, name: pgbouncer-admin}}}}, {name: workloads}]}"), 0o600))
	}
	settings("name: poolers")

	w.pause("PAUSE", "i-nodea1", w.records(), time.Now())
	require.Contains(t, w.resume("--config", file).out, "lease i-nodea1 is held by quiesce-gone")
	require.True(t, w.paused())

	w.pause("PAUSE", "i-nodea1", w.records(), time.Now().Add(-time.Minute))
	const found = "CRITICAL  lease quiesce/i-nodea1: no invocation holds it, and a drain recorded on it that db/pgbouncer-0 may be paused\n"
	w.doctor(w.env, []string{found}, "--cluster", "prod")
	settings("name: others, match: {labelSelector: app=other}")
	got := w.resume("--config", file)
	require.Equal(t, exitFindings, got.status)
	require.Contains(t, got.out, "no phase of the configuration has the escort of pod db/pgbouncer-0")
	require.Contains(t, got.out, "name the function's quiesce.yaml with --config")
	require.True(t, w.paused())

	settings("name: poolers")
	var answer resumed
	got = w.resume("--config", file, "-o", "json")
	require.Zero(t, got.status, got.out+got.progress)
	require.NoError(t, json.Unmarshal([]byte(got.out), &answer))
	require.Equal(t, []string{"db/pgbouncer-0"}, answer.Poolers)
	require.False(t, w.paused())
	require.NotContains(t, w.doctor(w.env, []string{"pod db/pgbouncer-0: only one replica"}, "--cluster", "prod").out, "lease quiesce/i-nodea1")
	require.Equal(t, "true", w.read("node", "node-a1", ".spec.unschedulable"))
	left := map[string]string{}
	require.NoError(t, json.Unmarshal([]byte(w.read("lease", "-n", "quiesce", "i-nodea1", ".metadata.annotations")), &left))
	require.NotContains(t, left, "quiesce/escort."+w.pod)
	require.Contains(t, left, "quiesce/closed."+w.nodeUID, "what was changed on the node is still known")
	require.Empty(t, w.read("lease", "-n", "quiesce", "i-nodea1", ".spec.holderIdentity"), "the next drain of the instance may take it")
}

func TestResume_WrongUse_SaysWhatToDo(t *testing.T) {
	w := newWorld(t)
	w.apply("../rbac.yaml")
	kubeconfig := []string{"KUBECONFIG=" + w.lab.Kubeconfig()}
	nobody := []string{"KUBECONFIG=" + impersonating(t, w.lab.Kubeconfig(), "nobody")}
	for _, c := range []struct {
		env  []string
		args string
		says string
	}{
		{nil, "", "read the kubeconfig"},
		{nobody, "", "you need permission in the cluster to create, get, list, update and delete Leases in namespace quiesce"},
		{kubeconfig, "--connect-via tunnel", `--connect-via must be one of portForward, podIP, not "tunnel"`},
		{kubeconfig, "--user me", "--user needs --password-file or --password-env"},
		{kubeconfig, "--password-env PASSWORD", "--password-file and --password-env need --user"},
		{kubeconfig, "--user me --password-file missing", "--password-file: open missing"},
		{kubeconfig, "--user me --password-env MISSING", "the password is empty"},
		{kubeconfig, "--console-secret pgbouncer-admin", "--console-secret must be namespace/name"},
		{kubeconfig, "--console-secret db/a --console-keys user", "--console-keys must be two names"},
		{kubeconfig, "--console-secret db/a --console-secret db/b", "--console-secret names two Secrets of namespace db, and its consoles get one login: run it once with each"},
		{kubeconfig, "--config missing.yaml", "--config: open missing.yaml"},
		{kubeconfig, "--function quiesce --force", "--force is for resume without a function: leave out --function or --force"},
	} {
		got := quiescectl(t, c.env, append([]string{"resume"}, strings.Fields(c.args)...)...)
		require.Equal(t, exitError, got.status, c.args)
		require.Contains(t, got.progress, c.says, c.args)
	}
}

// A drain can end while poolers are resumed. Then nothing is held any more.
func TestResumed_HolderEndsMeanwhile_IsNotHeld(t *testing.T) {
	held := kube.Unfinished{LeaseInfo: termination.LeaseInfo{Name: "i-0abc1234", Held: true}, Pods: []string{"a-uid"}}
	var answer resumed
	answer.setHeld([]kube.Unfinished{held})
	require.Equal(t, termination.StatusHeld, answer.Status)
	require.Equal(t, "i-0abc1234", answer.Held[0].Lease)
	held.Pods = nil
	answer.setHeld([]kube.Unfinished{held})
	require.Equal(t, resumed{Status: termination.StatusResumed, Held: []heldLease{}}, answer)
}

func TestCheckClock_FarOff_RefusesAndSaysWhatToDo(t *testing.T) {
	for skew, refused := range map[time.Duration]bool{0: false, time.Minute: true, -time.Minute: true} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(skew).UTC().Format(http.TimeFormat))
		}))
		t.Cleanup(server.Close)
		client, err := kube.New(&rest.Config{Host: server.URL})
		require.NoError(t, err)
		if err = checkClock(t.Context(), client, ", or use --force"); !refused {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, "off the API server's, so it cannot tell which Leases are held\nset the clock, or use --force")
	}
}
