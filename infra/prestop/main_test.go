package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/need"
	parts "quiesce/test/parts/pgbouncer"
)

func TestMain(m *testing.M) {
	code := parts.Run(m)
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// folder is where the program is, once it is built.
var folder string

var build = sync.OnceValues(func() (path string, err error) {
	if folder, err = os.MkdirTemp("", "prestop"); err != nil {
		return "", err
	}
	program := filepath.Join(folder, "prestop")
	if output, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build it: %w\n%s", err, output)
	}
	return program, os.Chmod(folder, 0o755)
})

// program returns the path of the program that is built for this run.
func program(t *testing.T) string {
	t.Helper()
	path, err := build()
	require.NoError(t, err)
	return path
}

// execute runs the program, as this user if uid is zero, and returns what it prints and its exit status.
func execute(t *testing.T, uid uint32, args ...string) (output string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, program(t), args...)
	if uid != 0 {
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	text, err := command.CombinedOutput()
	if command.ProcessState == nil {
		require.NoError(t, err)
	}
	return string(text), command.ProcessState.ExitCode()
}

// The kubelet sends SIGTERM when the program returns.
func TestProgram_Pooler_StoppedAndLogged(t *testing.T) {
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	file := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	output, status := execute(t, 0, "pgbouncer", fmt.Sprintf("--pid=%d", p.PID()), "--quiet-for=0s", "--log="+file)
	require.Zero(t, status, output)
	<-p.Ended()
	logged, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, output, "pgbouncer has exited")
	require.Equal(t, output, string(logged))
}

// otherUser is neither root nor the user of the tests' pgbouncers.
const otherUser = 65533

func TestProgram_NoPermission_ErrorNamesTheNextStep(t *testing.T) {
	if os.Geteuid() != 0 {
		need.Part(t, errors.New("only root can run a program as another user"))
	}
	t.Parallel()
	p := parts.Start(t, parts.Newer, parts.Options{})
	for _, flags := range [][]string{{"--dry-run"}, {"--accept-for=0s"}} {
		args := append([]string{"pgbouncer", fmt.Sprintf("--pid=%d", p.PID()), "--log=" + filepath.Join(t.TempDir(), "none")}, flags...)
		output, status := execute(t, otherUser, args...)
		require.Equal(t, 1, status, output)
		require.Contains(t, output, "as user 65533")
		require.Contains(t, output, "set runAsUser of the container with the hook")
		require.Contains(t, output, "the pod's log cannot be written")
		require.Contains(t, output, "clients cannot be seen")
	}
	require.Nil(t, p.State())
}

func TestRun_ExitStatus_TellsErrorsOfUsage(t *testing.T) {
	for args, want := range map[string]int{"": 2, "mysql": 2, "install": 2, "pgbouncer --grace": 2, "--help": 0, "pgbouncer --help": 0} {
		var output bytes.Buffer
		require.Equal(t, want, run(t.Context(), strings.Fields(args), &output), args)
		require.Contains(t, output.String(), "usage: prestop pgbouncer")
		require.Contains(t, output.String(), "--quiet-for time")
	}
}

func TestInstall_Folder_GetsTheProgram(t *testing.T) {
	folder := t.TempDir()
	for range 2 { // an init container may run again
		output, status := execute(t, 0, "install", folder)
		require.Zero(t, status, output)
	}
	output, err := exec.Command(filepath.Join(folder, "prestop"), "help").CombinedOutput()
	require.NoError(t, err, "%s", output)
	output2, status := execute(t, 0, "install", filepath.Join(folder, "none"))
	require.Equal(t, 1, status)
	require.Contains(t, output2, "mount an emptyDir there")
}

// The sandbox of a pod discards what it is told, and a runtime that does not read must not hold the hook.
func TestPodLog_Unusable_NotWaitedFor(t *testing.T) {
	link := filepath.Join(t.TempDir(), "1")
	require.NoError(t, os.Symlink(os.DevNull, link))
	_, err := openPodLog(link)
	require.ErrorContains(t, err, "shareProcessNamespace")

	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	reader, err := os.OpenFile(pipe, os.O_RDWR, 0)
	require.NoError(t, err)
	defer reader.Close()
	file, err := openPodLog(pipe)
	require.NoError(t, err)
	defer file.Close()
	began := time.Now()
	n, err := podWriter{file}.Write(make([]byte, 1<<20)) // more than a pipe holds
	require.NoError(t, err)
	require.Equal(t, 1<<20, n)
	require.Less(t, time.Since(began), waitTimeout)
}
