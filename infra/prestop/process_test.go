package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// made is a process in a /proc that a test makes. Its number is that of a real one, so that it can be opened.
type made struct{ name, state, mount string }

const (
	ourMount = "mnt:[1]"
	another  = "mnt:[2]"
)

// makeProc makes a /proc with this process, its parent and process 1 as what is given, in this order.
func makeProc(t *testing.T, all ...made) (proc string, pids []int) {
	t.Helper()
	proc = t.TempDir()
	link := func(folder, mount string) {
		require.NoError(t, os.MkdirAll(filepath.Join(proc, folder, "ns"), 0o755))
		require.NoError(t, os.Symlink(mount, filepath.Join(proc, folder, "ns", "mnt")))
	}
	link("self", ourMount)
	for i, pid := range []int{os.Getpid(), os.Getppid(), 1}[:len(all)] {
		link(fmt.Sprint(pid), all[i].mount)
		stat := fmt.Sprintf("%d (%s) %s %s 12345 0", pid, all[i].name, all[i].state, strings.TrimSpace(strings.Repeat("0 ", startedField-1)))
		require.NoError(t, os.WriteFile(filepath.Join(proc, fmt.Sprint(pid), "stat"), []byte(stat), 0o644))
		pids = append(pids, pid)
	}
	return proc, pids
}

func TestFindProcesses_ByName_OwnContainerFirst(t *testing.T) {
	for what, c := range map[string]struct {
		all  []made
		want []int // indexes
	}{
		"process 1 is a wrapper":           {[]made{{"pgbouncer", "S", ourMount}, {"entrypoint.sh", "S", ourMount}}, []int{0}},
		"several share a port":             {[]made{{"pgbouncer", "S", ourMount}, {"pgbouncer", "R", ourMount}}, []int{0, 1}},
		"another container has one too":    {[]made{{"pgbouncer", "S", another}, {"pgbouncer", "S", ourMount}, {"pause", "S", another}}, []int{1}},
		"only another container has one":   {[]made{{"pgbouncer", "S", another}, {"reloader", "S", ourMount}}, []int{0}},
		"it has ended, and is not reaped":  {[]made{{"pgbouncer", "Z", ourMount}}, nil},
		"none":                             {[]made{{"pgbouncer_exporter", "S", ourMount}, {"sh", "S", ourMount}}, nil},
		"a name with a space and brackets": {[]made{{"a) (pgbouncer", "S", ourMount}}, nil},
	} {
		t.Run(what, func(t *testing.T) {
			proc, pids := makeProc(t, c.all...)
			found, err := findProcesses(proc, options{})
			require.NoError(t, err)
			var want, got []int
			for _, i := range c.want {
				want = append(want, pids[i])
			}
			for _, p := range found {
				got = append(got, p.pid)
			}
			require.ElementsMatch(t, want, got)
		})
	}
}

func TestFindProcesses_SeveralInOtherContainers_Error(t *testing.T) {
	proc, _ := makeProc(t, made{"pgbouncer", "S", another}, made{"pgbouncer", "S", "mnt:[3]"})
	_, err := findProcesses(proc, options{})
	require.ErrorContains(t, err, "set --pid-file")
}

func TestFindProcesses_NoProc_ErrorNamesIt(t *testing.T) {
	_, err := findProcesses("/nowhere", options{})
	require.ErrorContains(t, err, "/nowhere has no processes: mount it as procfs")
}

// A pgbouncer with another name is what --pid-file is for: the hook exited, and its SIGTERM aborted the transactions. Only a process that
// started after the file was written is another program.
func TestFindProcesses_PidFileOfAnotherName_TakenUnlessStale(t *testing.T) {
	proc, pids := makeProc(t, made{"pgbouncer-1.22", "S", ourMount})
	file := filepath.Join(t.TempDir(), "pgbouncer.pid")
	require.NoError(t, os.WriteFile(file, fmt.Append(nil, pids[0]), 0o644))
	started := time.Now().Add(-time.Hour)
	boot := started.Add(-12345 * time.Second / ticksPerSecond).Unix()
	require.NoError(t, os.WriteFile(filepath.Join(proc, "stat"), fmt.Appendf(nil, "cpu 1 2 3\nbtime %d\nprocesses 4\n", boot), 0o644))
	for written, want := range map[time.Duration]int{time.Second: 1, -time.Minute: 0} {
		at := started.Add(written)
		require.NoError(t, os.Chtimes(file, at, at))
		found, err := findProcesses(proc, options{pidFile: file})
		require.Len(t, found, want, written)
		if want == 0 {
			require.ErrorContains(t, err, `is "pgbouncer-1.22", and did not start before it was written: remove the stale file`)
		}
	}
}

func TestFindProcesses_PidFile_NamesTheProcess(t *testing.T) {
	proc, pids := makeProc(t, made{"pgbouncer", "S", another}, made{"psql", "S", ourMount})
	for content, want := range map[string]struct {
		found int
		err   string
	}{
		fmt.Sprintf("%d\n", pids[0]): {found: 1},
		fmt.Sprintf("%d\n", pids[1]): {err: `is "psql", and did not start before it was written: remove the stale file`},
		"4194305":                    {}, // no such process: it has exited
		"":                           {err: "has no number of a process"},
		"-5":                         {err: "has no number of a process"},
	} {
		file := filepath.Join(t.TempDir(), "pgbouncer.pid")
		require.NoError(t, os.WriteFile(file, []byte(content), 0o644))
		found, err := findProcesses(proc, options{pidFile: file})
		if want.err != "" {
			require.ErrorContains(t, err, want.err, content)
			continue
		}
		require.NoError(t, err, content)
		require.Len(t, found, want.found, content)
	}
	found, err := findProcesses(proc, options{pidFile: filepath.Join(t.TempDir(), "removed.pid")})
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestProcess_NumberTakenByAnother_HasEnded(t *testing.T) {
	proc, pids := makeProc(t, made{"pgbouncer", "S", ourMount})
	p, err := openProcess(proc, pids[0])
	require.NoError(t, err)
	require.False(t, p.ended())
	file := filepath.Join(p.folder, "stat")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(string(text), "12345", "12346", 1)), 0o644))
	require.True(t, p.ended())
}
