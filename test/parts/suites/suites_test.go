package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Times are from the end of one package to that of the next: a second each here, with one of two cores busy.
func TestFold_OutputOfGoTest_TimesBySuite(t *testing.T) {
	output := `ok  	quiesce/events	1.035s
--- FAIL: TestSetRecord_DoesNotFit (1.01s)
    lease_test.go:467: ok  	quiesce/test/e2e	1.0s
FAIL
FAIL	quiesce/internal/kube	148.150s
?   	quiesce/internal/metrics/metricstest	[no test files]
	quiesce/lambda/nothing		coverage: 0.0% of statements
FAIL	quiesce/internal/asg [build failed]
FAIL
ok  	quiesce/test/e2e	555.908s
ok  	quiesce/test/e2e/postgres	(cached)
`
	var at instant
	clock := func() instant {
		at.Time, at.busy = at.Add(time.Minute), at.busy+time.Minute
		return at
	}
	var took table
	fold(strings.NewReader(output), at, clock, &took, &failures{})
	require.Equal(t, map[string]time.Duration{
		others: 2 * time.Minute, "quiesce/test/e2e": time.Minute, "quiesce/test/e2e/postgres": time.Minute,
	}, took.wall)
	require.Equal(t, took.wall, took.busy)
}

func TestPrint_OverBudget_Warned(t *testing.T) {
	var took table
	took.add("quiesce/test/e2e", 7*time.Minute, time.Minute)
	took.add(others, 30*time.Minute, 30*time.Minute)
	var out strings.Builder
	took.print(&out)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 4)
	require.Regexp(t, `^all other packages +30\.0 +12 +\d+% +WARNING: over its budget$`, lines[1])
	require.Regexp(t, `^quiesce/test/e2e +7\.0 +9 +\d+% *$`, lines[2])
	require.Regexp(t, `^together +37\.0 +49 +\d+% *$`, lines[3])
}

func TestRun_CommandFails_FailsAndTellsAll(t *testing.T) {
	var took table
	require.NoError(t, run(t.Context(), `printf 'ok  \tquiesce/events\t1.0s\n'`, &took, &failures{}))
	require.Error(t, run(t.Context(), "exit 3", &took, &failures{}))
	require.Contains(t, took.wall, others)
}

// make and CI end a run by a signal to this process. Whatever it has started must end too.
func TestRun_Stopped_EndsWhatItStarted(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	read, write, err := os.Pipe()
	require.NoError(t, err)
	defer read.Close()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, fmt.Sprintf("(echo begun >/proc/%d/fd/%d; exec sleep 1000) & wait", os.Getpid(), write.Fd()), &table{}, &failures{})
	}()
	_, err = bufio.NewReader(read).ReadString('\n')
	require.NoError(t, err)
	stop()
	select {
	case err := <-ended:
		require.Error(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("the command still runs: its output is open")
	}
	write.Close()
}

// The reason of a failure is found among a function's log, which a failed test prints.
func TestSee_FailedTestWithLogs_KeepsTheReason(t *testing.T) {
	const assertion = `            	Error Trace:	test/e2e/postgres/disturbances_test.go:308
            	Error:      	Not equal: 
            	            	expected: "demo-2"
            	Messages:   	the only member on a node that stays
`
	output := `ok  	quiesce/events	1.035s
--- FAIL: TestCases_OneCluster_HeldOrMoved (229.62s)
    cases_test.go:41: the cluster and its clients work after 30s
    --- FAIL: TestCases_OneCluster_HeldOrMoved/two_nodes (22.55s)
        disturbances_test.go:308: 
` + assertion + `        fixture_test.go:311: the function's log:
            {"level":"INFO","msg":"function started"}
panic: runtime error: index out of range
FAIL	quiesce/test/e2e/postgres	880.416s
`
	var wrong failures
	for line := range strings.Lines(output) {
		wrong.see(line)
	}
	var out strings.Builder
	wrong.print(&out)
	require.Equal(t, `
FAILURES, without their logs
--- FAIL: TestCases_OneCluster_HeldOrMoved (229.62s)
    cases_test.go:41: the cluster and its clients work after 30s
    --- FAIL: TestCases_OneCluster_HeldOrMoved/two_nodes (22.55s)
        disturbances_test.go:308: 
`+assertion+`panic: runtime error: index out of range
`, out.String())
}

func TestSee_MuchOutput_Bounded(t *testing.T) {
	var wrong failures
	for range 2 * mostLines {
		wrong.see("panic: " + strings.Repeat("x", 2*lineLength) + "\n")
	}
	require.Len(t, wrong.lines, mostLines)
	require.Len(t, wrong.lines[0], lineLength+len(" ..."))
	var out strings.Builder
	(&failures{}).print(&out)
	require.Empty(t, out.String())
}
