package runtimeapi_test

import (
	"context"
	"encoding/json"
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
	"quiesce/test/parts/runtimeapi"
)

const (
	// waitTimeout bounds every wait for something that takes milliseconds. Only a broken package reaches it.
	waitTimeout = 20 * time.Second
	// pollInterval is the time between checks of a condition.
	pollInterval = 5 * time.Millisecond
)

// bootstrap is the built testdata/bootstrap. Its folder is removed after the last test.
var bootstrap string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if path := os.Getenv("ORPHAN_BOOTSTRAP"); path != "" {
		return orphan(path)
	}
	folder, err := os.MkdirTemp("", "runtimeapi-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(folder) }()
	bootstrap = filepath.Join(folder, "bootstrap")
	build := exec.Command("go", "build", "-o", bootstrap, "./testdata/bootstrap")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	return m.Run()
}

func start(t *testing.T, o runtimeapi.Options) *runtimeapi.Function {
	t.Helper()
	o.Bootstrap = bootstrap
	f, err := runtimeapi.Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

func invoke(t *testing.T, f *runtimeapi.Function, event string) runtimeapi.Result {
	t.Helper()
	r, err := f.Invoke(t.Context(), []byte(event))
	require.NoError(t, err)
	return r
}

// answer is what the bootstrap reports about itself.
type answer struct {
	Text     string
	PID      int
	Deadline time.Time
	Env      map[string]string
}

func answered(t *testing.T, r runtimeapi.Result) answer {
	t.Helper()
	require.Empty(t, r.ErrorType, string(r.Payload))
	var a answer
	require.NoError(t, json.Unmarshal(r.Payload, &a))
	return a
}

func gone(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool { return syscall.Kill(pid, 0) != nil }, waitTimeout, pollInterval)
}

func TestInvoke_HandlerReturns_AnswerAndDuration(t *testing.T) {
	f := start(t, runtimeapi.Options{Timeout: time.Minute})
	r := invoke(t, f, `{"Text":"hello"}`)
	a := answered(t, r)
	require.Equal(t, "hello", a.Text)
	require.WithinDuration(t, time.Now().Add(time.Minute), a.Deadline, 10*time.Second)
	require.Positive(t, r.Duration)
	require.Positive(t, f.ColdStart())
	require.Contains(t, f.Output(), "handling ")
}

func TestInvoke_Twice_OnlyFirstIsCold(t *testing.T) {
	f := start(t, runtimeapi.Options{})
	first, second := invoke(t, f, `{}`), invoke(t, f, `{}`)
	require.True(t, first.Cold)
	require.False(t, second.Cold)
	require.Equal(t, answered(t, first).PID, answered(t, second).PID)
}

func TestEnvironment_Given_TheseAndLambdasOnly(t *testing.T) {
	t.Setenv("HOME", "/home/tester")
	f := start(t, runtimeapi.Options{Env: []string{"COLOR=red", "AWS_LAMBDA_FUNCTION_NAME=other"}})
	env := answered(t, invoke(t, f, `{}`)).Env
	require.Equal(t, "red", env["COLOR"])
	require.Equal(t, "other", env["AWS_LAMBDA_FUNCTION_NAME"])
	require.Empty(t, env["HOME"])
	require.Equal(t, filepath.Dir(bootstrap), env["LAMBDA_TASK_ROOT"])
	require.Equal(t, env["LAMBDA_TASK_ROOT"], env["PWD"])
}

// A process that works in the background does so only during invocations.
func TestFunction_BetweenInvocations_Frozen(t *testing.T) {
	_, err := os.Stat("/proc/self/stat")
	need.Part(t, err)
	f := start(t, runtimeapi.Options{})
	pid := answered(t, invoke(t, f, `{"Do":"tick"}`)).PID
	for range 3 {
		require.Eventually(t, func() bool { return isStopped(pid) }, waitTimeout, pollInterval)
		require.Equal(t, pid, answered(t, invoke(t, f, `{}`)).PID)
	}
}

// isStopped reports whether a signal has stopped the process (proc_pid_stat(5), field 3).
func isStopped(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, fields, _ := strings.Cut(string(stat), ") ")
	return err == nil && strings.HasPrefix(fields, "T")
}

func TestInvoke_ManyAtOnce_OneProcess(t *testing.T) {
	f := start(t, runtimeapi.Options{})
	var group sync.WaitGroup
	pids := make([]int, 8)
	for i := range pids {
		group.Go(func() { pids[i] = answered(t, invoke(t, f, `{}`)).PID })
	}
	group.Wait()
	for _, pid := range pids {
		require.Equal(t, pids[0], pid)
	}
}

func TestInvoke_HandlerError_TypeAndMessage(t *testing.T) {
	f := start(t, runtimeapi.Options{})
	refused := invoke(t, f, `{"Do":"refuse","Text":"not mine"}`)
	require.Equal(t, "Refusal", refused.ErrorType)
	require.Equal(t, "not mine", refused.ErrorMessage)
	require.JSONEq(t, `{"errorType":"Refusal","errorMessage":"not mine"}`, string(refused.Payload))
	require.Equal(t, "errorString", invoke(t, f, `{"Do":"fail","Text":"x"}`).ErrorType)
	require.False(t, invoke(t, f, `{}`).Cold, "an error does not end the process")
}

func TestInvoke_HandlerPanics_ReportedAndNextIsCold(t *testing.T) {
	f := start(t, runtimeapi.Options{})
	pid := answered(t, invoke(t, f, `{}`)).PID
	r := invoke(t, f, `{"Do":"panic","Text":"oh"}`)
	require.Equal(t, "string", r.ErrorType)
	require.Equal(t, "oh", r.ErrorMessage)
	next := invoke(t, f, `{}`)
	require.True(t, next.Cold)
	require.NotEqual(t, pid, answered(t, next).PID)
}

func TestInvoke_ProcessExits_ReportedAndNextIsCold(t *testing.T) {
	f := start(t, runtimeapi.Options{})
	r := invoke(t, f, `{"Do":"exit"}`)
	require.Equal(t, runtimeapi.ExitError, r.ErrorType)
	require.Contains(t, r.ErrorMessage, "exit status 3")
	require.True(t, invoke(t, f, `{}`).Cold)
}

func TestInvoke_PastDeadline_ProcessKilled(t *testing.T) {
	f := start(t, runtimeapi.Options{Timeout: 3 * time.Second})
	pid := answered(t, invoke(t, f, `{}`)).PID
	r := invoke(t, f, `{"Do":"hang"}`)
	require.Equal(t, runtimeapi.TimedOut, r.ErrorType)
	require.Contains(t, r.ErrorMessage, "Task timed out after 3.00 seconds")
	gone(t, pid)
	require.True(t, invoke(t, f, `{}`).Cold)
}

func TestKill_DuringInvocation_EndsAsACrash(t *testing.T) {
	f := start(t, runtimeapi.Options{})
	results := make(chan runtimeapi.Result, 1)
	go func() { results <- invoke(t, f, `{"Do":"hang"}`) }()
	require.Eventually(t, func() bool { return strings.Contains(f.Output(), "handling hang") }, waitTimeout, pollInterval)
	f.Kill()
	r := <-results
	require.Equal(t, runtimeapi.ExitError, r.ErrorType)
	require.Contains(t, r.ErrorMessage, "signal: killed")
	require.True(t, invoke(t, f, `{}`).Cold)
}

func TestKill_BetweenInvocations_NextIsCold(t *testing.T) {
	f := start(t, runtimeapi.Options{})
	for range 5 {
		require.True(t, invoke(t, f, `{}`).Cold)
		f.Kill()
	}
}

func TestInvoke_CallerGivesUp_ProcessKilled(t *testing.T) {
	f := start(t, runtimeapi.Options{})
	pid := answered(t, invoke(t, f, `{}`)).PID
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := f.Invoke(ctx, []byte(`{"Do":"hang"}`))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	gone(t, pid)
	require.True(t, invoke(t, f, `{}`).Cold)
}

func TestClose_Function_RefusesInvocations(t *testing.T) {
	f := start(t, runtimeapi.Options{})
	pid := answered(t, invoke(t, f, `{}`)).PID
	require.NoError(t, f.Close())
	require.Error(t, syscall.Kill(pid, 0))
	_, err := f.Invoke(t.Context(), nil)
	require.ErrorIs(t, err, runtimeapi.ErrClosed)
}

func TestStart_ContextEnds_FunctionEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f, err := runtimeapi.Start(ctx, runtimeapi.Options{Bootstrap: bootstrap})
	require.NoError(t, err)
	pid := answered(t, invoke(t, f, `{}`)).PID
	cancel()
	gone(t, pid)
}

func TestMaxRSS_Process_NotOfTheTest(t *testing.T) {
	ballast := make([]byte, 256<<20)
	for i := 0; i < len(ballast); i += os.Getpagesize() {
		ballast[i] = 1
	}
	f := start(t, runtimeapi.Options{})
	invoke(t, f, `{}`)
	require.NoError(t, f.Close())
	require.Greater(t, f.MaxRSS(), int64(1<<20))
	require.Less(t, f.MaxRSS(), int64(64<<20))
	require.Equal(t, byte(1), ballast[0])
}
