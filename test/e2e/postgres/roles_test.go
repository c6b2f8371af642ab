package postgres

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"quiesce/test/env"
	"quiesce/test/env/database"
	"quiesce/test/env/poolers"
	"quiesce/test/parts/lab"
)

// The passwords of the Secret, which must be in no log.
const (
	administratorPassword = "hunter-administrator"
	replicationPassword   = "hunter-replication"
)

// rolesServers is a PostgreSQL and a standby that copies it, both with passwords for everything, and the Job's Secret. The program is told
// about the standby first.
const rolesServers = `
apiVersion: v1
kind: Namespace
metadata: {name: NAMESPACE}
---
apiVersion: v1
kind: Secret
metadata: {name: roles, namespace: NAMESPACE}
stringData:
  POSTGRES_HOSTNAME: standby.NAMESPACE.svc.cluster.local,primary.NAMESPACE.svc.cluster.local
  POSTGRES_PASSWORD: ` + administratorPassword + `
  POSTGRES_REPLICATION_PASSWORD: ` + replicationPassword + `
---
apiVersion: v1
kind: Service
metadata: {name: primary, namespace: NAMESPACE}
spec: {selector: {app: primary}, ports: [{port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: standby, namespace: NAMESPACE}
spec: {selector: {app: standby}, ports: [{port: 5432}]}
---
apiVersion: v1
kind: Pod
metadata: {name: primary, namespace: NAMESPACE, labels: {app: primary}}
spec:
  nodeSelector: {group: base}
  terminationGracePeriodSeconds: 1
  containers:
    - name: postgres
      image: localhost/patroni:4.0
      imagePullPolicy: Never
      envFrom: [{secretRef: {name: roles}}]
      command: [sh, -ec]
      args:
        - |
          printf %s "$POSTGRES_PASSWORD" >/tmp/password
          initdb -D /data/db -U postgres -A scram-sha-256 --pwfile /tmp/password --no-sync >/dev/null
          printf 'host %s all 0.0.0.0/0 scram-sha-256\n' all replication >>/data/db/pg_hba.conf
          exec postgres -D /data/db -c listen_addresses='*' -c unix_socket_directories=/tmp -c jit=off -c fsync=off -c log_statement=all
      volumeMounts: [{name: data, mountPath: /data}]
      startupProbe: {tcpSocket: {port: 5432}, periodSeconds: 1, failureThreshold: 600}
  volumes: [{name: data, emptyDir: {}}]
`

const rolesStandby = `
apiVersion: v1
kind: Pod
metadata: {name: standby, namespace: NAMESPACE, labels: {app: standby}}
spec:
  nodeSelector: {group: base}
  terminationGracePeriodSeconds: 1
  containers:
    - name: postgres
      image: localhost/patroni:4.0
      imagePullPolicy: Never
      env: [{name: PGPASSWORD, valueFrom: {secretKeyRef: {name: roles, key: POSTGRES_REPLICATION_PASSWORD}}}]
      command: [sh, -ec]
      args:
        - |
          pg_basebackup -h primary.NAMESPACE.svc.cluster.local -U replicator -D /data/db -R -X stream --checkpoint=fast --no-sync
          exec postgres -D /data/db -c listen_addresses='*' -c unix_socket_directories=/tmp -c jit=off -c fsync=off
      volumeMounts: [{name: data, mountPath: /data}]
      startupProbe: {tcpSocket: {port: 5432}, periodSeconds: 1, failureThreshold: 600}
  volumes: [{name: data, emptyDir: {}}]
`

// rolesJob is the Job of infra/roles-job.yaml, in a namespace of its own.
type rolesJob struct {
	*testing.T
	ctx       context.Context
	namespace string
	root      string
	node      string // that has the image
}

func newRolesJob(t *testing.T) *rolesJob {
	t.Helper()
	lab.RequireMachines(t)
	require.NoError(t, sharedErr)
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	base, err := shared.BaseNode(ctx)
	require.NoError(t, err)
	root, err := env.Root()
	require.NoError(t, err)
	j := &rolesJob{t, ctx, fmt.Sprintf("postgres-%d", testCount.Add(1)), root, base.Node}
	t.Cleanup(func() {
		soon := int64(1)
		core, background := shared.Lab.Client().CoreV1(), context.WithoutCancel(ctx)
		require.NoError(t, core.Namespaces().Delete(background, j.namespace, metav1.DeleteOptions{}))
		_ = core.Pods(j.namespace).DeleteCollection(background, metav1.DeleteOptions{GracePeriodSeconds: &soon}, metav1.ListOptions{})
	})
	return j
}

// importImage makes the image as a user does, and gives it to the node, which has no registry.
func (j *rolesJob) importImage() (ref string) {
	j.Helper()
	cmd := exec.CommandContext(j.ctx, "make", "image", "PROGRAMS=roles", "TAG=lab", "GOARCH="+runtime.GOARCH)
	cmd.Dir = j.root
	said, err := cmd.CombinedOutput()
	require.NoError(j, err, "%s", said)
	archive := filepath.Join(j.root, "dist", "roles-"+runtime.GOARCH+".tar")
	inside, err := shared.Lab.Inside(j.ctx, j.node, "ctr", "--namespace", "k8s.io", "images", "import", archive)
	require.NoError(j, err)
	said, err = inside.CombinedOutput()
	require.NoError(j, err, "%s", said)
	return "localhost/roles:lab"
}

// apply applies a manifest in this test's namespace.
func (j *rolesJob) apply(manifest string) {
	j.Helper()
	file := filepath.Join(j.TempDir(), "manifest.yaml")
	require.NoError(j, os.WriteFile(file, []byte(strings.ReplaceAll(manifest, "NAMESPACE", j.namespace)), 0o600))
	require.NoError(j, shared.Lab.Apply(j.ctx, file))
}

// await waits until a pod is ready.
func (j *rolesJob) await(app string) corev1.Pod {
	j.Helper()
	pods, err := database.AwaitReady(j.ctx, shared.Lab, j.namespace, labels.Set{"app": app}, 1)
	require.NoError(j, err)
	return pods[0]
}

// run applies the manifest of the repository, with what a user changes in it, and returns the log of the finished Job.
func (j *rolesJob) run(image string) string {
	j.Helper()
	text, err := os.ReadFile(filepath.Join(j.root, "infra", "roles-job.yaml"))
	require.NoError(j, err)
	manifest := string(text)
	for from, to := range map[string]string{
		"namespace: db}": "namespace: NAMESPACE}", "REGISTRY/roles:TAG": image,
		"      restartPolicy: Never": "      nodeSelector: {group: base}\n      restartPolicy: Never",
	} {
		require.Contains(j, manifest, from)
		manifest = strings.ReplaceAll(manifest, from, to)
	}
	j.apply(manifest)
	for !j.finished() {
		require.NoError(j, poolers.Wait(j.ctx, probeInterval), "the Job does not end")
	}
	return j.log("job/roles")
}

// finished reports whether the Job has succeeded. It fails the test if the program failed once: it waits for a primary by itself.
func (j *rolesJob) finished() bool {
	j.Helper()
	client := shared.Lab.Client()
	pods, err := client.CoreV1().Pods(j.namespace).List(j.ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=roles"})
	require.NoError(j, err)
	for _, pod := range pods.Items {
		for _, c := range pod.Status.ContainerStatuses {
			if c.RestartCount > 0 || c.State.Terminated != nil && c.State.Terminated.ExitCode != 0 {
				j.Fatalf("the Job failed: %s", j.log("job/roles"))
			}
		}
	}
	job, err := client.BatchV1().Jobs(j.namespace).Get(j.ctx, "roles", metav1.GetOptions{})
	require.NoError(j, err)
	return job.Status.Succeeded == 1
}

// again deletes the Job, so that it can run once more.
func (j *rolesJob) again() {
	j.Helper()
	_, err := shared.Lab.Kubectl(j.ctx, "--namespace", j.namespace, "delete", "job", "roles")
	require.NoError(j, err)
}

func (j *rolesJob) log(of string) string {
	said, err := shared.Lab.Kubectl(j.ctx, "--namespace", j.namespace, "logs", of)
	if err != nil {
		return err.Error()
	}
	return said
}

// The Job makes the user, a standby copies the database and streams with it, and the Job's next run finds the primary beside the standby
// and changes nothing.
func TestRoles_Job_StandbyStreamsWithItsUser(t *testing.T) {
	j := newRolesJob(t)
	image := j.importImage()
	j.apply(rolesServers)
	primary := j.await("primary")
	first := j.run(image)
	require.Contains(t, first, "role replicator: created (login, replication, password)\n")
	require.Contains(t, first, "role app_blue: created (member of app_group, SET role app_group)\n")

	j.apply(rolesStandby)
	j.await("standby")
	j.requireStreams(primary)
	j.again()
	require.Contains(t, j.run(image), "role replicator: unchanged\nrole app_group: unchanged\nrole app_blue: unchanged\nrole app_green: unchanged\n")

	for _, of := range []string{"job/roles", "primary", "standby"} {
		require.NotContains(t, j.log(of), "hunter", of)
		require.NotContains(t, j.log(of), "SCRAM-SHA-256$", of)
	}
	require.Contains(t, j.log("primary"), `CREATE ROLE "replicator"`, "the log has statements")
}

// requireStreams waits until a standby streams from the primary as the user that the Job made.
func (j *rolesJob) requireStreams(primary corev1.Pod) {
	j.Helper()
	conn, err := pgconn.Connect(j.ctx, fmt.Sprintf("postgres://postgres:%s@%s:5432/postgres?sslmode=disable", administratorPassword, primary.Status.PodIP))
	require.NoError(j, err)
	defer conn.Close(context.WithoutCancel(j.ctx))
	for {
		results, err := conn.Exec(j.ctx, "SELECT state FROM pg_stat_replication WHERE usename = 'replicator' AND application_name = 'walreceiver'").ReadAll()
		require.NoError(j, err)
		if rows := results[0].Rows; len(rows) == 1 && string(rows[0][0]) == "streaming" {
			return
		}
		require.NoError(j, poolers.Wait(j.ctx, probeInterval), "no standby streams")
	}
}
