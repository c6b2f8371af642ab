package main

import (
	"os"
	"regexp"
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

// runExamples runs the examples of the page whose command begins so, and requires each line that the page shows.
func (w *world) runExamples(t *testing.T, command string) {
	t.Helper()
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("quiesce.yaml", []byte("{cluster: prod, autoScalingGroups: [workers-a], mode: drain}"), 0o600))
	ran := 0
	for _, found := range example.FindAllStringSubmatch(w.page, -1) {
		args := strings.Fields(found[1])
		if args[0] != command {
			continue
		}
		ran++
		got := quiescectl(t, w.env, args...)
		require.NotEqual(t, exitError, got.status, "%s: %s", found[1], got.progress)
		for line := range strings.Lines(found[2]) {
			require.Contains(t, got.out, line, found[1])
		}
	}
	require.Positive(t, ran)
}

func TestReadme_Checks_AreAll(t *testing.T) {
	var names []string
	for _, found := range checkRow.FindAllStringSubmatch(readme(t), -1) {
		names = append(names, found[1])
	}
	require.Equal(t, doctor.Names(), names)
}
