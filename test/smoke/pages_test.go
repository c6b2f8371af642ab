package main

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

func page(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile("../../" + path)
	require.NoError(t, err)
	return string(text)
}

// The README says when the smoke test last ran on AWS.
func TestReadme_LastRunOnAWS_IsThere(t *testing.T) {
	require.Regexp(t, "Last run of \\[`make smoke`\\]\\(test/README.md#smoke-test\\) on AWS: (never|20\\d\\d-\\d\\d-\\d\\d)\\.", page(t, "README.md"))
}

// The page has a row for each variable that the program reads, and for each group of steps.
func TestPage_EveryVariable_HasARow(t *testing.T) {
	readme := page(t, "test/README.md")
	variables := regexp.MustCompile(`(?:getenv|required)\("([A-Z_]+)"`).FindAllStringSubmatch(page(t, "test/smoke/settings.go"), -1)
	require.Len(t, variables, 9)
	for _, v := range variables {
		require.Contains(t, readme, "\n| `"+v[1]+"` |")
	}
	for _, step := range (&smoke{}).steps() {
		require.Regexp(t, `(?m)^\| (.*, )?`+step.name+`(, .*)? \|`, readme)
	}
}
