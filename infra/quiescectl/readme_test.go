package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/doctor"
)

var (
	example  = regexp.MustCompile("(?ms)^```console\n\\$ quiescectl ([^\n]*)\n(.*?)^```")
	checkRow = regexp.MustCompile("(?m)^\\| `([a-z]+-[a-z-]+|reading)` \\|")
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	return string(text)
}

// runExamples runs the examples of the page with these commands, and requires each line that the page shows.
func runExamples(t *testing.T, env []string, commands ...string) {
	t.Helper()
	page := readme(t)
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("quiesce.yaml", []byte("{cluster: prod, autoScalingGroups: [workers-a], mode: drain}"), 0o600))
	ran := map[string]bool{}
	for _, found := range example.FindAllStringSubmatch(page, -1) {
		args := strings.Fields(found[1])
		if !slices.Contains(commands, args[0]) {
			continue
		}
		ran[args[0]] = true
		lines := slices.Collect(strings.Lines(found[2]))
		if args[0] == "doctor" {
			(&world{T: t}).doctor(env, lines, args[1:]...)
			continue
		}
		got := quiescectl(t, env, args...)
		require.NotEqual(t, exitError, got.status, "%s: %s", found[1], got.progress)
		for _, line := range lines {
			require.Contains(t, got.out, line, found[1])
		}
	}
	require.ElementsMatch(t, commands, slices.Collect(maps.Keys(ran)))
}

func TestReadme_ExamplesOfTheFunction_ShowItsAnswers(t *testing.T) {
	runExamples(t, newAccount(t).env, "plan", "check", "drain", "switchover", "resume", "sweep")
}

func TestReadme_Checks_AreAll(t *testing.T) {
	var names []string
	for _, found := range checkRow.FindAllStringSubmatch(readme(t), -1) {
		names = append(names, found[1])
	}
	require.Equal(t, doctor.Names(), names)
}

// The first screen of the project shows what doctor says.
func TestTopReadme_Doctor_IsReal(t *testing.T) {
	page, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	real, err := os.ReadFile("testdata/faulty.txt")
	require.NoError(t, err)
	shown := regexp.MustCompile("(?m)^(CRITICAL|WARNING|INFO) .*$").FindAllString(string(page), -1)
	require.NotEmpty(t, shown)
	for _, line := range shown {
		require.Contains(t, string(real), line+"\n")
	}
}
