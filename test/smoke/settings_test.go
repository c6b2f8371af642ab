package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/termination"
)

func environment(more map[string]string) func(string) string {
	return func(name string) string {
		if value, set := more[name]; set {
			return value
		}
		return map[string]string{"GROUP": "scratch", "CLUSTER": "test", "DEPLOY": "true", "DESTROY": "true"}[name]
	}
}

func TestReadSettings_Missing_AllAreNamed(t *testing.T) {
	_, err := readSettings(func(name string) string {
		return map[string]string{"MAX_INSTANCES": "many", "STACK": "no-such-file"}[name]
	})
	for _, name := range []string{"GROUP", "CLUSTER", "DEPLOY", "DESTROY", "MAX_INSTANCES", "no-such-file"} {
		require.ErrorContains(t, err, name)
	}
}

// The configuration drains this group only.
func TestConfiguration_Group_OnlyThisOneIsDrained(t *testing.T) {
	set, err := readSettings(environment(nil))
	require.NoError(t, err)
	text, err := set.configuration()
	require.NoError(t, err)
	parsed, err := config.Parse([]byte(text), environment(nil))
	require.NoError(t, err)
	require.Equal(t, config.ModeDrain, parsed.Mode)
	require.Equal(t, []string{"scratch"}, parsed.Groups.Listed())
	require.Equal(t, "test", parsed.Cluster)
	require.False(t, parsed.Stack.ReservedConcurrency)

	file := filepath.Join(t.TempDir(), "stack.yaml")
	require.NoError(t, os.WriteFile(file, []byte("stack: {typo: 1}\n"), 0o600))
	set, err = readSettings(environment(map[string]string{"STACK": file}))
	require.NoError(t, err)
	_, err = set.configuration()
	require.ErrorContains(t, err, "typo")
}

func TestCommands_Run_GetTheConfiguration(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	set, err := readSettings(environment(map[string]string{
		"DEPLOY": `echo "deploy $CONFIG" >>` + out, "DESTROY": `echo "destroy $CONFIG $KEEP_RBAC" >>` + out + `; exit 3`,
	}))
	require.NoError(t, err)
	require.NoError(t, set.Deploy(t.Context(), "a.yaml"))
	require.ErrorContains(t, set.Destroy(t.Context(), "a.yaml", true), "exit status 3")
	written, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, "deploy a.yaml\ndestroy a.yaml true\n", string(written))
}

// An interrupted command gets an interrupt, and may end in good order.
func TestCommand_Interrupted_MayEndInGoodOrder(t *testing.T) {
	folder := t.TempDir()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	command := runs(`trap 'echo ended >` + folder + `/end; exit 0' INT; echo began >` + folder + `/begin; while :; do sleep 0.05; done`)
	done := make(chan error)
	go func() { done <- command(ctx, "a.yaml") }()
	require.Eventually(t, func() bool { _, err := os.Stat(folder + "/begin"); return err == nil }, time.Minute, 5*time.Millisecond)
	interrupted := errors.New("interrupted")
	cancel(interrupted)
	require.ErrorIs(t, <-done, interrupted)
	require.FileExists(t, folder+"/end")
}

// The summary can be pasted into an issue: it has no account number, and texts of others do not break its tables.
func TestSummary_Failed_SaysWhatAndHidesTheAccount(t *testing.T) {
	s := &smoke{settings: settings{Group: "scratch", Cluster: "test", Version: "v1"}, region: "eu-west-1", failed: errors.New("broken")}
	s.target.account = "111122223333"
	s.results = []result{{"deploy", "", 90 * time.Second, errors.New("arn:aws:iam::111122223333:role/a |\ndenied")}}
	s.checks = []check{{"first", ""}, {"second", "wrong"}}
	s.seen.report.Status = termination.StatusPartial
	text := s.summary()
	require.Contains(t, text, "## quiesce smoke test: FAILED")
	require.Contains(t, text, `| deploy | FAILED | 1m30s | arn:aws:iam::********3333:role/a \| denied |`)
	require.Contains(t, text, "- [ok] first\n- [FAILED] second: wrong\n")
	require.NotContains(t, text, "111122223333")
}
