package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"quiesce/internal/pgbouncer"
	parts "quiesce/test/parts/pgbouncer"
)

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "patronicallback")
	if err == nil {
		built = filepath.Join(folder, "patronicallback")
		buildErr = exec.Command("go", "build", "-o", built, ".").Run()
	}
	code := parts.Run(m)
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// built is the program that the tests run.
var (
	built    string
	buildErr error
)

const (
	waitTimeout  = time.Minute            // of a condition on a busy machine
	waitInterval = 100 * time.Millisecond // each look reads all processes of the machine
	short        = 8 * time.Second        // a -resume-after that a test waits for, after it has looked at the pause on a busy machine
	retryBefore  = "15"                   // server_login_retry by default
)

func targetOf(p *parts.Pooler) pgbouncer.Target {
	t := pgbouncer.Target{Dial: p.Dial, User: parts.Admin.Name, Password: parts.Admin.Password, TLS: pgbouncer.TLSDisable}
	if p.CA != nil {
		t.TLS = pgbouncer.TLSRequire
	}
	return t
}

// fixture is one member with the callbacks, and the poolers of its cluster.
type fixture struct {
	*testing.T
	program string
	patroni *httptest.Server
	said    atomic.Value // what Patroni answers
	poolers []*parts.Pooler
	output  string // file
}

func newFixture(t *testing.T, poolers ...*parts.Pooler) *fixture {
	t.Helper()
	folder := t.TempDir()
	f := &fixture{T: t, program: filepath.Join(folder, "patronicallback"), poolers: poolers, output: filepath.Join(folder, "output")}
	require.NoError(t, buildErr)
	require.NoError(t, os.Link(built, f.program)) // its path tells its processes from those of other tests
	f.say("restarting", "primary")
	f.patroni = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/patroni" {
			_, _ = fmt.Fprint(w, f.said.Load())
		}
	}))
	t.Cleanup(f.patroni.Close)
	t.Cleanup(func() {
		f.killWatchers()
		if t.Failed() {
			t.Logf("the callbacks' output:\n%s", f.read(f.output))
		}
	})
	return f
}

// both is a fixture with a pooler of each version.
func both(t *testing.T) *fixture {
	t.Helper()
	return newFixture(t, parts.Start(t, parts.Older, parts.Options{}), parts.Start(t, parts.Newer, parts.Options{}))
}

func (f *fixture) say(state, role string) {
	f.said.Store(fmt.Sprintf(`{"state":%q,"role":%q,"dcs_last_seen":%d}`, state, role, time.Now().Unix()))
}

func (f *fixture) read(path string) string {
	f.Helper()
	text, err := os.ReadFile(path)
	require.NoError(f, err)
	return string(text)
}

// run runs a callback as Patroni does, and returns its exit status. Further arguments come after the flags.
func (f *fixture) run(event, flags string, rest ...string) int {
	f.Helper()
	var addresses []string
	for _, p := range f.poolers {
		addresses = append(addresses, p.Addr)
	}
	args := append([]string{event, "-poolers", strings.Join(addresses, ","), "-databases", parts.App.Name, "-tls", "disable",
		"-patroni", f.patroni.URL}, strings.Fields(flags)...)
	return f.runRaw(append(args, rest...)...)
}

func (f *fixture) runRaw(args ...string) int {
	f.Helper()
	output, err := os.OpenFile(f.output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(f, err)
	defer output.Close()
	command := exec.CommandContext(f.Context(), f.program, args...)
	command.Env = append(os.Environ(), userVariable+"="+parts.Admin.Name, passwordVariable+"="+parts.Admin.Password)
	command.Stdout, command.Stderr = output, output
	if err := command.Run(); command.ProcessState == nil {
		require.NoError(f, err)
	}
	return command.ProcessState.ExitCode()
}

// promoted runs on_role_change of a new leader.
func (f *fixture) promoted() {
	f.Helper()
	f.say("running", "primary")
	require.Zero(f, f.run(onRoleChange, "", onRoleChange, "primary", "demo"))
}

// watchers returns the processes that watch.
func (f *fixture) watchers() []int { return f.processes(watch) }

// kill kills all processes of this fixture.
func (f *fixture) kill() {
	for _, pid := range f.processes("") {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// processes returns the processes of this fixture in this mode; empty: in any.
func (f *fixture) processes(mode string) (pids []int) {
	f.Helper()
	found, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(f, err)
	for _, folder := range found {
		line, err := os.ReadFile(filepath.Join(folder, "cmdline"))
		if args := strings.Split(string(line), "\x00"); err == nil && args[0] == f.program && (mode == "" || args[1] == mode) {
			pid, _ := strconv.Atoi(filepath.Base(folder))
			pids = append(pids, pid)
		}
	}
	return pids
}

func (f *fixture) killWatchers() {
	for _, pid := range f.watchers() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	f.awaitNoWatcher()
}

func (f *fixture) awaitNoWatcher() {
	f.Helper()
	require.Eventually(f, func() bool { return len(f.watchers()) == 0 }, waitTimeout, waitInterval, "a watcher does not end")
}

// shown returns whether the database of a pooler is paused, and its server_login_retry.
func (f *fixture) shown(p *parts.Pooler) (paused bool, retry string) {
	f.Helper()
	console, err := pgbouncer.Open(f.Context(), targetOf(p))
	require.NoError(f, err)
	defer console.Close()
	databases, err := console.Databases(f.Context())
	require.NoError(f, err)
	require.Len(f, databases, 1)
	retry, err = console.Setting(f.Context(), pgbouncer.ServerLoginRetry)
	require.NoError(f, err)
	return databases[0].Paused, retry
}

func (f *fixture) tell(p *parts.Pooler, command string) {
	f.Helper()
	console, err := pgconn.Connect(f.Context(), fmt.Sprintf("postgres://%s@%s/pgbouncer?sslmode=disable&password=%s",
		parts.Admin.Name, p.Addr, strings.ReplaceAll(parts.Admin.Password, " ", "%20")))
	require.NoError(f, err)
	defer console.Close(f.Context())
	_, err = console.Exec(f.Context(), command).ReadAll()
	require.NoError(f, err, command)
}

func (f *fixture) requirePaused() {
	f.Helper()
	for _, p := range f.poolers {
		paused, retry := f.shown(p)
		require.True(f, paused)
		m, marked := readMark(retry)
		require.True(f, marked && m.isPause(), retry)
	}
}

// requireAsBefore waits until all watchers have ended, and requires that nothing is left of them.
func (f *fixture) requireAsBefore() {
	f.Helper()
	f.awaitNoWatcher()
	for _, p := range f.poolers {
		paused, retry := f.shown(p)
		require.False(f, paused)
		require.Equal(f, retryBefore, retry)
	}
	require.NotContains(f, f.read(f.output), parts.Admin.Password)
}

func TestBeforeStop_Restart_PausedUntilThePrimaryRuns(t *testing.T) {
	t.Parallel()
	f := both(t)
	require.Zero(t, f.run(beforeStop, ""))
	f.requirePaused()
	f.say("starting", "primary")
	f.requirePaused()
	f.say("running", "primary")
	f.requireAsBefore()
	require.Contains(t, f.read(f.output), "this member is the primary")
}

// The member still says that it runs when before_stop begins: that is no reason to let clients go.
func TestBeforeStop_StillRunning_NotTheEndOfThePause(t *testing.T) {
	t.Parallel()
	f := both(t)
	f.say("running", "primary")
	require.Zero(t, f.run(beforeStop, "-resume-after "+short.String()))
	f.requirePaused()
	f.requireAsBefore()
	require.Contains(t, f.read(f.output), "its time is over")
}

func TestBeforeStop_NoPromotion_ResumedInTime(t *testing.T) {
	t.Parallel()
	f := both(t)
	f.say("stopping", "primary")
	began := time.Now()
	require.Zero(t, f.run(beforeStop, "-resume-after "+short.String()))
	f.requirePaused()
	f.say("running", "replica")
	f.requireAsBefore()
	require.GreaterOrEqual(t, time.Since(began), short)
	require.Contains(t, f.read(f.output), "its time is over")
}

func TestBeforeStop_PatroniGone_ResumedInTime(t *testing.T) {
	t.Parallel()
	f := both(t)
	require.Zero(t, f.run(beforeStop, "-resume-after "+short.String()))
	f.requirePaused()
	f.patroni.Close()
	f.requireAsBefore()
}

// The setting would fail clients earlier than the pause ends.
func TestBeforeStop_ShortTimeoutOfClients_ResumedBefore(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"query_wait_timeout", "query_timeout"} {
		f := newFixture(t, parts.Start(t, parts.Newer, parts.Options{Settings: map[string]string{setting: "4"}}))
		began := time.Now()
		require.Zero(t, f.run(beforeStop, ""))
		f.requirePaused()
		f.requireAsBefore()
		require.GreaterOrEqual(t, time.Since(began), 3*time.Second)
		require.Contains(t, f.read(f.output), "for=3s", setting)
	}
}

func TestBeforeStop_NotThePrimary_Nothing(t *testing.T) {
	t.Parallel()
	f := both(t)
	for _, role := range []string{"replica", "standby_leader", "demoted", ""} {
		f.say("stopping", role)
		require.Zero(t, f.run(beforeStop, ""))
		f.requireAsBefore()
		require.NotContains(t, f.read(f.output), "paused the pooler", role)
	}
}

func TestBeforeStop_NobodySaysWhoLeads_Nothing(t *testing.T) {
	t.Parallel()
	f := both(t)
	f.patroni.Close()
	require.Zero(t, f.run(beforeStop, "-data "+t.TempDir()))
	f.requireAsBefore()
	require.Contains(t, f.read(f.output), "ask Patroni")
}

// A pause that is there already is quiesce's, or a person's.
func TestCallbacks_PausedBySomebodyElse_LeftAlone(t *testing.T) {
	t.Parallel()
	for name, retry := range map[string]string{"a person": retryBefore, "quiesce": "1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := both(t)
			for _, p := range f.poolers {
				f.tell(p, "SET server_login_retry = '"+retry+"'")
				f.tell(p, "PAUSE "+parts.App.Name)
			}
			require.Zero(t, f.run(beforeStop, "-resume-after "+short.String()))
			f.awaitNoWatcher()
			f.promoted()
			f.awaitNoWatcher()
			for _, p := range f.poolers {
				paused, now := f.shown(p)
				require.True(t, paused)
				require.Equal(t, retry, now)
			}
			require.Contains(t, f.read(f.output), "another administrator has paused it")
		})
	}
}

// A RESUME could reach another process than its PAUSE.
func TestBeforeStop_SeveralProcesses_LeftAlone(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{Settings: map[string]string{"so_reuseport": "1"}})
	f := newFixture(t, p)
	require.Zero(t, f.run(beforeStop, "-resume-after "+short.String()))
	f.awaitNoWatcher()
	_, retry := f.shown(p)
	require.Equal(t, retryBefore, retry)
	require.NotContains(t, p.Log(t), "PAUSE")
	require.Contains(t, f.read(f.output), "several processes may share the port")
}

// One pooler is somebody else's: the other is paused and resumed.
func TestBeforeStop_OnePausedBySomebodyElse_OtherPaused(t *testing.T) {
	t.Parallel()
	f := both(t)
	foreign := f.poolers[0]
	f.tell(foreign, "PAUSE "+parts.App.Name)
	require.Zero(t, f.run(beforeStop, ""))
	paused, _ := f.shown(f.poolers[1])
	require.True(t, paused)
	f.promoted()
	f.awaitNoWatcher()
	paused, retry := f.shown(f.poolers[1])
	require.False(t, paused)
	require.Equal(t, retryBefore, retry)
	paused, retry = f.shown(foreign)
	require.True(t, paused)
	require.Equal(t, retryBefore, retry)
}

// The container of the old leader is gone, and the watcher with it.
func TestOnRoleChange_WatcherKilled_NewLeaderResumes(t *testing.T) {
	t.Parallel()
	f := both(t)
	require.Zero(t, f.run(beforeStop, ""))
	f.killWatchers()
	f.requirePaused()
	f.promoted()
	f.requireAsBefore()
}

// RECONNECT can fail clients whose logins are under way: only connections that may lead to an old primary are renewed.
func TestCallbacks_Reconnect_OnlyAfterAPromotion(t *testing.T) {
	t.Parallel()
	f := newFixture(t, parts.Start(t, parts.Newer, parts.Options{}))
	const reconnect = "RECONNECT '"
	require.Zero(t, f.run(beforeStop, ""))
	f.say("running", "primary") // a restart
	f.requireAsBefore()
	require.NotContains(t, f.poolers[0].Log(t), reconnect)
	f.say("stopping", "primary")
	require.Zero(t, f.run(beforeStop, ""))
	f.killWatchers()
	f.promoted()
	f.requireAsBefore()
	require.Contains(t, f.poolers[0].Log(t), reconnect)
}

// The old leader's container dies at any moment, with all its processes. The new leader's callback leaves nothing behind.
func TestCallbacks_KilledAtAnyMoment_NewLeaderCleansUp(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, parts.Start(t, []string{parts.Older, parts.Newer}[i%2], parts.Options{}))
			for range 3 {
				f.say("stopping", "primary")
				done := make(chan struct{})
				go func() { defer close(done); f.run(beforeStop, "") }()
				time.Sleep(rand.N(400 * time.Millisecond)) // the moment is the subject
				f.kill()
				<-done
				f.kill() // what was started meanwhile
				f.promoted()
				f.requireAsBefore()
			}
		})
	}
}

// Patroni calls on_role_change when a promotion begins. One that never ends must not keep clients either.
func TestOnRoleChange_NotPromoted_ResumedInTime(t *testing.T) {
	t.Parallel()
	f := both(t)
	require.Zero(t, f.run(beforeStop, ""))
	f.killWatchers()
	f.say("running", "replica")
	require.Zero(t, f.run(onRoleChange, "", onRoleChange, "primary", "demo"))
	f.requirePaused()
	f.requireAsBefore()
	require.Contains(t, f.read(f.output), "its time is over")
	require.NotContains(t, f.read(f.output), "this member is the primary")
}

func TestOnRoleChange_Demoted_Nothing(t *testing.T) {
	t.Parallel()
	f := both(t)
	require.Zero(t, f.run(beforeStop, ""))
	f.killWatchers()
	f.say("running", "primary")
	require.Zero(t, f.run(onRoleChange, "", onRoleChange, "replica", "demo"))
	require.Empty(t, f.watchers())
	f.requirePaused()
}

// Killed after RESUME and before the setting was restored.
func TestOnRoleChange_MarkOfAResumedPooler_Restored(t *testing.T) {
	t.Parallel()
	f := both(t)
	for _, p := range f.poolers {
		f.tell(p, "SET server_login_retry = '"+mark{15, resumed}.value()+"'")
	}
	f.promoted()
	f.requireAsBefore()
}

// A later callback takes over: the watcher of the earlier one does not resume when its own time is over, and ends with the pause.
func TestBeforeStop_SecondTime_TakesOver(t *testing.T) {
	t.Parallel()
	f := both(t)
	require.Zero(t, f.run(beforeStop, "-resume-after "+short.String()))
	require.Len(t, f.watchers(), 1)
	require.Zero(t, f.run(beforeStop, ""))
	require.Len(t, f.watchers(), 2)
	require.Eventually(t, func() bool {
		return strings.Count(f.read(f.output), markedByNext) == len(f.poolers)
	}, waitTimeout, waitInterval, "the first has wanted to resume both")
	f.requirePaused()
	f.say("running", "primary")
	f.requireAsBefore()
}

// A person ends the pause by hand, and begins one: the second is theirs.
func TestBeforeStop_ResumedByHand_LaterPauseLeftAlone(t *testing.T) {
	t.Parallel()
	f := both(t)
	require.Zero(t, f.run(beforeStop, ""))
	for _, p := range f.poolers {
		f.tell(p, "RESUME "+parts.App.Name)
	}
	f.requireAsBefore()
	for _, p := range f.poolers {
		f.tell(p, "PAUSE "+parts.App.Name)
	}
	f.promoted()
	f.awaitNoWatcher()
	for _, p := range f.poolers {
		paused, _ := f.shown(p)
		require.True(t, paused)
	}
}

// pgbouncer reads its file again, and forgets the mark.
func TestBeforeStop_Reload_ResumedAllTheSame(t *testing.T) {
	t.Parallel()
	f := both(t)
	require.Zero(t, f.run(beforeStop, ""))
	for _, p := range f.poolers {
		f.tell(p, "RELOAD")
		paused, retry := f.shown(p)
		require.True(t, paused)
		require.Equal(t, retryBefore, retry)
	}
	f.say("running", "primary")
	f.requireAsBefore()
}

func TestBeforeStop_OpenTransaction_StopsInTime(t *testing.T) {
	t.Parallel()
	f := both(t)
	client := f.poolers[1].Connect(t)
	parts.Exec(t, client, "BEGIN")
	began := time.Now()
	require.Zero(t, f.run(beforeStop, "-transactions 1s"))
	require.GreaterOrEqual(t, time.Since(began), time.Second)
	require.Less(t, time.Since(began), openTime+time.Second+stopReserve)
	require.Contains(t, f.read(f.output), "transactions did not end in time")
	f.requirePaused()
	parts.Exec(t, client, "COMMIT")
	f.say("running", "primary")
	f.requireAsBefore()
	parts.Exec(t, client, "SELECT 1")
}

// Patroni must stop soon when it has lost its store: clients are paused, and their transactions get no time.
func TestBeforeStop_StoreLost_NotKept(t *testing.T) {
	t.Parallel()
	f := both(t)
	client := f.poolers[1].Connect(t)
	parts.Exec(t, client, "BEGIN")
	f.said.Store(fmt.Sprintf(`{"state":"stopping","role":"primary","dcs_last_seen":%d}`, time.Now().Add(-time.Minute).Unix()))
	began := time.Now()
	require.Zero(t, f.run(beforeStop, "-transactions 15s"))
	require.Less(t, time.Since(began), 15*time.Second)
	f.requirePaused()
}

func TestBeforeStop_SessionMode_LeftAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, parts.Start(t, parts.Newer, parts.Options{PoolMode: "session"}))
	parts.Exec(t, f.poolers[0].Connect(t), "SELECT 1")
	require.Zero(t, f.run(beforeStop, ""))
	f.requireAsBefore()
	require.Contains(t, f.read(f.output), "session mode")
}

// A pooler that does not answer keeps neither PostgreSQL nor the other poolers.
func TestBeforeStop_PoolerStopped_OthersPaused(t *testing.T) {
	t.Parallel()
	f := both(t)
	f.poolers[0].Signal(t, syscall.SIGSTOP)
	t.Cleanup(func() { f.poolers[0].Signal(t, syscall.SIGCONT) })
	require.Zero(t, f.run(beforeStop, ""))
	paused, _ := f.shown(f.poolers[1])
	require.True(t, paused)
	require.Contains(t, f.read(f.output), "left the pooler alone")
}

// The command that was there before gets the arguments that Patroni gives it, and its exit status is the callback's, whatever happens to
// ours.
func TestCallback_Chained_RunsAsBefore(t *testing.T) {
	t.Parallel()
	f := newFixture(t) // without poolers: the flag is empty, which is an error
	seen := filepath.Join(t.TempDir(), "seen")
	require.Equal(t, 7, f.run(onRoleChange, "", "--", "sh", "-c", `echo "$*" >"$0"; exit 7`, seen, onRoleChange, "primary", "demo"))
	require.Equal(t, "on_role_change primary demo\n", f.read(seen))
	require.Equal(t, 5, f.run(beforeStop, "-no-such-flag", "--", "sh", "-c", "exit 5"))
	require.Equal(t, 128+int(syscall.SIGKILL), f.run(beforeStop, "", "--", "sh", "-c", "kill -9 $$"))
	require.Equal(t, notStarted, f.run(beforeStop, "", "--", "/no/such/command"))
	require.Zero(t, f.run(beforeStop, ""))
	require.Equal(t, 2, f.runRaw(), "no arguments")
	require.Equal(t, 2, f.runRaw("no_such_callback", "x"))
}

// before_stop: poolers are paused when the other command runs, whose failure resumes nothing.
func TestBeforeStop_Chained_RunsUnderThePause(t *testing.T) {
	t.Parallel()
	f := both(t)
	require.Equal(t, 3, f.run(beforeStop, "", "--", "sh", "-c", "exit 3"))
	f.requirePaused()
	f.say("running", "primary")
	f.requireAsBefore()
}

// A callback that Patroni cancels is killed with its children. The watcher is none of them.
func TestBeforeStop_Watcher_IsNobodysChild(t *testing.T) {
	t.Parallel()
	f := both(t)
	parent := filepath.Join(t.TempDir(), "parent")
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.run(beforeStop, "", "--", "sh", "-c", `echo $PPID >"$0.new"; mv "$0.new" "$0"; until test -e "$0.seen"; do sleep 0.05; done`, parent)
	}()
	require.Eventually(t, func() bool { _, err := os.Stat(parent); return err == nil }, waitTimeout, waitInterval)
	pids := f.watchers()
	require.Len(t, pids, 1)
	stat := strings.Fields(strings.SplitN(f.read(fmt.Sprintf("/proc/%d/stat", pids[0])), ") ", 2)[1])
	require.NotEqual(t, strings.TrimSpace(f.read(parent)), stat[1], "its parent is the callback")
	require.Equal(t, strconv.Itoa(pids[0]), stat[3], "it has a session of its own")
	require.NoError(t, os.WriteFile(parent+".seen", nil, 0o600))
	<-done
	require.NoError(t, syscall.Kill(pids[0], syscall.SIGTERM))
	f.say("running", "primary")
	f.requireAsBefore()
	require.Contains(t, f.read(f.output), "this member is the primary", "a signal does not end it")
}

func TestInstall_Folder_HasTheProgram(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	folder := t.TempDir()
	require.Zero(t, f.runRaw(install, folder))
	copied, err := os.Stat(filepath.Join(folder, "patronicallback"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), copied.Mode().Perm())
	require.Equal(t, f.read(f.program), f.read(filepath.Join(folder, "patronicallback")))
	require.Equal(t, 1, f.runRaw(install, filepath.Join(folder, "none")))
}
