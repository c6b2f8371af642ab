package pooler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/rotate"
	"quiesce/internal/scram"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/env/database"
	"quiesce/test/env/poolers"
	"quiesce/test/parts/lab"
)

const (
	appGroup          = "app"
	appBlue, appGreen = "app_blue", "app_green"
	appSecret         = "app"
	firstPassword     = "the-first-password-of-the-application"
	otherAdmin        = "admin_green"
	quietFor          = "3s"

	// touchInterval is how often pods are changed, so that their kubelets bring changed Secrets within seconds instead of a minute.
	touchInterval = 2 * time.Second
	// recordInterval is the time between looks at a rotation's record, and the most by which a run is killed too late.
	recordInterval = 10 * time.Millisecond
)

// rotateFixture has two poolers of each version. Their userlist is in a mounted Secret, and twenty workers have their login from another.
// PostgreSQL asks for the passwords of both logins.
type rotateFixture struct {
	*fixture
	examples *poolers.Examples
	program  string // quiescectl
	server   string // the address of PostgreSQL
}

func newRotateFixture(t *testing.T) *rotateFixture {
	t.Helper()
	verifier, err := scram.New(firstPassword, scram.Iterations)
	require.NoError(t, err)
	lab.RequireMachines(t)
	r := &rotateFixture{program: buildQuiescectl(t), examples: &poolers.Examples{Versions: []string{"1.18", "1.24"}}}
	r.fixture = newFixture(t, poolers.Options{
		Nodes: 3, NodeOfTarget: r.examples.NodeOfAll, Flags: [][]string{{"-recycle=1s"}, {"-recycle=2s"}, {"-recycle=1s", "-validate"}, {"-recycle=1s"}},
		Poolers: database.Options{
			Users: []string{fmt.Sprintf("%q %q", appBlue, verifier.Stored())}, Admins: []string{otherAdmin}, Login: appSecret,
		},
		Deploy: func(ctx context.Context, l *lab.Lab, o database.Options) (*database.Database, error) {
			db, err := r.examples.Deploy(ctx, l, o)
			if err != nil {
				return nil, err
			}
			return db, prepareRoles(ctx, l, db, verifier.Stored())
		},
	}, "strategy: surge")
	pods, err := r.Lab.Client().CoreV1().Pods(r.Name).List(r.ctx, metav1.ListOptions{LabelSelector: "app=postgres"})
	require.NoError(t, err)
	r.server = pods.Items[0].Status.PodIP
	r.touchPods()
	return r
}

// prepareRoles makes the two logins, and the Secret with the first one.
func prepareRoles(ctx context.Context, l *lab.Lab, db *database.Database, verifier string) error {
	for _, sql := range []string{
		"CREATE ROLE " + appGroup + " NOLOGIN",
		"GRANT INSERT ON commits TO " + appGroup,
		"CREATE ROLE " + appBlue + " LOGIN PASSWORD '" + verifier + "' IN ROLE " + appGroup,
		"CREATE ROLE " + appGreen + " NOLOGIN IN ROLE " + appGroup,
		"ALTER ROLE " + appBlue + " SET role TO " + appGroup,
		"ALTER ROLE " + appGreen + " SET role TO " + appGroup,
		"COPY (VALUES ('host all " + appBlue + "," + appGreen + " 0.0.0.0/0 scram-sha-256'), ('host all all 0.0.0.0/0 trust')) TO '/data/db/pg_hba.conf'",
		"SELECT pg_reload_conf()",
	} {
		if _, err := db.Query(ctx, sql); err != nil {
			return fmt.Errorf("prepare the roles: %w", err)
		}
	}
	_, err := l.Kubectl(ctx, "--namespace", db.Namespace, "create", "secret", "generic", appSecret,
		"--from-literal=username="+appBlue, "--from-literal=password="+firstPassword)
	return err
}

func buildQuiescectl(t *testing.T) (path string) {
	t.Helper()
	root, err := env.Root()
	require.NoError(t, err)
	path = filepath.Join(t.TempDir(), "quiescectl")
	require.NoError(t, env.BuildProgram(t.Context(), root, "./infra/quiescectl", path))
	return path
}

// touchPods lets kubelets look at all pods again and again until the test ends.
func (r *rotateFixture) touchPods() {
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan struct{})
	r.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		pods := r.Lab.Client().CoreV1().Pods(r.Name)
		for n := 0; poolers.Wait(ctx, touchInterval) == nil; n++ {
			all, err := pods.List(ctx, metav1.ListOptions{})
			if err != nil {
				continue
			}
			for _, p := range all.Items { // one that has gone meanwhile needs no look
				_, _ = pods.Patch(ctx, p.Name, types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{"look":"%d"}}}`, n), metav1.PatchOptions{})
			}
		}
	}()
}

// login is one pair of logins.
type login struct {
	name   string
	secret string // that its clients have it from
	flags  []string
}

func (r *rotateFixture) appLogin() login {
	return login{"the application's login", appSecret, []string{
		"--logins", appBlue + "," + appGreen, "--group", appGroup, "--dsn", "postgres://postgres@" + r.server + ":5432/postgres?sslmode=disable",
	}}
}

func (r *rotateFixture) consoleLogin() login {
	return login{"quiesce's own login", "pgbouncer-admin", []string{"--logins", database.AdminUser + "," + otherAdmin, "--admin"}}
}

// command returns a run of rotate, and what it says.
func (r *rotateFixture) command(of login, args ...string) (*exec.Cmd, *bytes.Buffer) {
	var said bytes.Buffer
	args = slices.Concat([]string{
		"rotate", "--kubeconfig", r.Lab.Kubeconfig(), "--userlist", r.Name + "/pgbouncer", "--console-secret", r.Name + "/pgbouncer-admin",
		"--app-secret", r.Name + "/" + of.secret, "--quiet-for", quietFor,
	}, of.flags, args)
	command := exec.CommandContext(r.ctx, r.program, args...)
	command.Stdout, command.Stderr = &said, &said
	return command, &said
}

// rotateTo rotates. The run is killed at each of these steps, and started again.
func (r *rotateFixture) rotateTo(of login, to string, killedAt ...rotate.Step) {
	r.Helper()
	var all strings.Builder
	for _, step := range killedAt {
		command, said := r.command(of, "--to", to)
		require.NoError(r, command.Start())
		ended := make(chan error, 1)
		go func() { ended <- command.Wait() }()
		r.awaitStep(step, to, ended, said)
		require.NoError(r, command.Process.Kill())
		<-ended
		require.Equal(r, syscall.SIGKILL, command.ProcessState.Sys().(syscall.WaitStatus).Signal(), "%s", said)
		r.Logf("rotate %s to %s, killed at %s:\n%s", of.name, to, step, said)
		all.Write(said.Bytes())
	}
	command, said := r.command(of, "--to", to)
	err := command.Run()
	r.Logf("rotate %s to %s:\n%s", of.name, to, said)
	require.NoError(r, err)
	all.Write(said.Bytes())
	r.requireRotated(of, to, all.String())
}

// awaitStep waits until the record has this step. The run must not end before.
func (r *rotateFixture) awaitStep(step rotate.Step, to string, ended <-chan error, said *bytes.Buffer) {
	r.Helper()
	for record := r.record(); record.Step != step || record.To != to; record = r.record() {
		select {
		case err := <-ended:
			require.NoError(r, errors.Join(fmt.Errorf("it ended before it was at %s, at %s", step, record.Step), err), "%s", said)
		case <-r.ctx.Done():
			require.NoError(r, fmt.Errorf("it did not come to %s: it is at %s", step, record.Step), "%s", said)
		case <-time.After(recordInterval):
		}
	}
}

func (r *rotateFixture) record() (record rotate.Record) {
	r.Helper()
	if text := r.secret("pgbouncer").Annotations[rotate.Annotation]; text != "" {
		require.NoError(r, json.Unmarshal([]byte(text), &record))
	}
	return record
}

func (r *rotateFixture) secret(name string) *corev1.Secret {
	r.Helper()
	secret, err := r.Lab.Client().CoreV1().Secrets(r.Name).Get(r.ctx, name, metav1.GetOptions{})
	require.NoError(r, err)
	return secret
}

// requireRotated requires that one login is in use, and the other one is closed everywhere; that no client failed; and that no password was
// printed.
func (r *rotateFixture) requireRotated(of login, to, said string) {
	r.Helper()
	record := r.record()
	require.Equal(r, rotate.Closed, record.Step)
	require.Equal(r, to, record.To)
	current := r.secret(of.secret).Data
	require.Equal(r, to, string(current["username"]))
	require.NotContains(r, current, "password.previous")
	for _, hidden := range []string{string(current["password"]), firstPassword, database.AdminPassword, "SCRAM-SHA-256"} {
		require.NotContains(r, said, hidden)
	}
	database := "postgres"
	if of.secret == "pgbouncer-admin" {
		database = "pgbouncer"
	}
	pods, err := r.examples.AwaitReady(r.ctx, r.Lab)
	require.NoError(r, err)
	for _, p := range pods {
		require.NoError(r, r.logIn(p, database, to, string(current["password"])), p.Name)
		for _, old := range []string{firstPassword, "lab-console-password", string(current["password"])} {
			require.Error(r, r.logIn(p, database, record.From, old), "%s accepts %s", p.Name, record.From)
		}
	}
	r.requireNoneFailed(of.name)
}

// logIn logs in to a pooler.
func (r *rotateFixture) logIn(p corev1.Pod, name, user, password string) error {
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=%s port=%d dbname=%s sslmode=disable", p.Status.PodIP, database.Port, name))
	require.NoError(r, err)
	config.User, config.Password = user, password
	client, err := pgconn.ConnectConfig(r.ctx, config)
	if err != nil {
		return err
	}
	return client.Close(r.ctx)
}

// requireNoneFailed requires that no transaction was cut, and no login refused. A drain may close a few connections between transactions.
func (r *rotateFixture) requireNoneFailed(what string) {
	r.Helper()
	now, err := r.Snapshot(r.ctx)
	require.NoError(r, err)
	committed, logins, closed := 0, 0, 0
	for _, w := range now.Workers {
		require.Empty(r, slices.Concat(w.Aborted, w.Ambiguous), "%s: worker %d: %s", what, w.Worker, w.LastError)
		require.Zero(r, w.ConnectErrors, "%s: worker %d: %s", what, w.Worker, w.LastError)
		committed, logins, closed = committed+w.Committed, logins+w.Connects, closed+w.BeginErrors
	}
	r.Logf("%s: %d transactions, %d logins, %d connections closed between transactions so far", what, committed, logins, closed)
	require.LessOrEqual(r, closed, maxClosedAtBegin)
}

// besideDrain terminates the node that has poolers of both versions, and has its drain run while do does something.
func (r *rotateFixture) besideDrain(do func()) {
	r.Helper()
	_, err := r.examples.AwaitReady(r.ctx, r.Lab)
	require.NoError(r, err)
	node, err := r.examples.NodeOfAll(r.ctx)
	require.NoError(r, err)
	i := slices.IndexFunc(r.Nodes, func(i env.Instance) bool { return i.Node == node })
	r.Target = r.Nodes[i]
	ended := make(chan error, 1)
	go func() {
		report, err := r.Drain(r.ctx, r.function, r.Target)
		if err == nil && report.Status != termination.StatusDrained {
			err = fmt.Errorf("the drain ended as %s: %+v", report.Status, report)
		}
		ended <- errors.Join(err, r.AwaitTermination(r.ctx, r.Target))
	}()
	do()
	require.NoError(r, <-ended)
}

// addNode replaces a node that is gone, so that poolers can go from one node to another again.
func (r *rotateFixture) addNode() {
	r.Helper()
	added, err := r.Acquire(r.ctx, r.Name, 1)
	require.NoError(r, err)
	r.Nodes = append(r.Nodes, added...)
}

var everyStep = []rotate.Step{rotate.Opening, rotate.Moving, rotate.Quiet, rotate.Closing, rotate.Ending}

// The long form rotates back, undisturbed, and then again and again, killed at any time.
func TestRotate_TwentyWorkers_NoClientFails(t *testing.T) {
	r := newRotateFixture(t)
	r.requireSubPathRefused()
	r.besideDrain(func() { r.rotateTo(r.appLogin(), appGreen, everyStep...) })
	r.addNode()
	r.besideDrain(func() { r.rotateTo(r.consoleLogin(), otherAdmin) })
	if os.Getenv("CASES") == "all" {
		r.rotateTo(r.appLogin(), appBlue)
		r.rotateTo(r.consoleLogin(), database.AdminUser, everyStep...)
		r.addNode()
		r.besideDrain(func() { r.rotateKilledAnyTime(r.appLogin(), appGreen) })
	}
	results := r.finish()
	requireNoneAborted(t, results)
	require.Zero(t, results.Refused(), results.Errors())
}

const (
	// deaths is how often a run is killed at any time.
	deaths = 8
	// longestLife is more than a run needs for any step but the quiet time.
	longestLife = 8 * time.Second
)

func (r *rotateFixture) rotateKilledAnyTime(of login, to string) {
	r.Helper()
	for range deaths {
		command, said := r.command(of, "--to", to)
		require.NoError(r, command.Start())
		death := time.AfterFunc(rand.N(longestLife), func() { _ = command.Process.Kill() })
		err := command.Wait()
		death.Stop()
		r.Logf("killed at %s: %v\n%s", r.record().Step, err, said)
	}
	r.rotateTo(of, to)
}

// A pod that mounts the userlist with subPath never sees it change.
func (r *rotateFixture) requireSubPathRefused() {
	r.Helper()
	pod, err := r.Lab.Client().CoreV1().Pods(r.Name).Create(r.ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "sidecar"},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{"group": "none"}, // it need not run
			Containers: []corev1.Container{{
				Name: "pgbouncer", Image: "localhost/pgbouncer:1.24", ImagePullPolicy: corev1.PullNever,
				VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/userlist.txt", SubPath: "userlist.txt"}},
			}},
			Volumes: []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "pgbouncer"}}}},
		},
	}, metav1.CreateOptions{})
	require.NoError(r, err)
	before := r.secret("pgbouncer")
	for _, dryRun := range []string{"--dry-run=true", "--dry-run=false"} {
		command, said := r.command(r.appLogin(), "--to", appGreen, dryRun)
		require.Error(r, command.Run())
		require.Contains(r, said.String(), "container pgbouncer mounts the userlist with subPath")
		require.Contains(r, said.String(), "mount the volume as a folder")
	}
	require.Equal(r, before, r.secret("pgbouncer"))
	require.NoError(r, r.Lab.Client().CoreV1().Pods(r.Name).Delete(r.ctx, pod.Name, metav1.DeleteOptions{}))
}
