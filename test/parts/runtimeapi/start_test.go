package runtimeapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/runtimeapi"
)

// failedStart starts a function that cannot start, and returns the error.
func failedStart(ctx context.Context, t *testing.T, how string) *runtimeapi.InitError {
	t.Helper()
	_, err := runtimeapi.Start(ctx, runtimeapi.Options{Bootstrap: bootstrap, Env: []string{"INIT=" + how}})
	var failure *runtimeapi.InitError
	require.ErrorAs(t, err, &failure)
	return failure
}

func TestStart_ProcessExits_ErrorHasStderr(t *testing.T) {
	failure := failedStart(t.Context(), t, "exit")
	require.ErrorContains(t, failure.Cause, "exit status 1")
	require.JSONEq(t, `{"level":"ERROR","message":"no configuration"}`, failure.Stderr)
}

func TestStart_InitErrorReported_ProcessKilled(t *testing.T) {
	failure := failedStart(t.Context(), t, "report")
	require.ErrorContains(t, failure.Cause, "no cluster")
}

func TestStart_Canceled_ProcessKilled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, failedStart(ctx, t, "hang").Cause, context.Canceled)
}

func TestStart_NoBootstrap_Error(t *testing.T) {
	_, err := runtimeapi.Start(t.Context(), runtimeapi.Options{Bootstrap: bootstrap + "-not"})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestOutput_InvocationEnds_Complete(t *testing.T) {
	f := start(t, runtimeapi.Options{})
	for n := 1; n <= 200; n++ {
		invoke(t, f, `{"Do":"fail","Text":"no"}`)
		require.Equal(t, n, strings.Count(f.Output(), "handling fail"))
		require.Equal(t, n, strings.Count(f.Output(), `"errorMessage":"no"`))
	}
}

func TestLogs_Output_WrittenImmediately(t *testing.T) {
	var logs bytes.Buffer
	f := start(t, runtimeapi.Options{Logs: &logs})
	invoke(t, f, `{"Do":"fail","Text":"written to stderr"}`)
	require.NoError(t, f.Close())
	require.Contains(t, logs.String(), "handling fail")
	require.Contains(t, logs.String(), "written to stderr")
	require.Equal(t, logs.String(), f.Output())
}

// orphan is the main function of a test process that will be killed: it starts a function, prints its process ID, and waits.
func orphan(path string) int {
	f, err := runtimeapi.Start(context.Background(), runtimeapi.Options{Bootstrap: path})
	if err != nil {
		panic(err)
	}
	r, err := f.Invoke(context.Background(), []byte(`{}`))
	if err != nil {
		panic(err)
	}
	fmt.Println(string(r.Payload))
	select {}
}

func TestFunction_TestKilled_Dies(t *testing.T) {
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), "ORPHAN_BOOTSTRAP="+bootstrap)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	var a answer
	require.NoError(t, json.NewDecoder(out).Decode(&a))
	require.NoError(t, child.Process.Kill())
	gone(t, a.PID)
	require.Error(t, child.Wait())
}
