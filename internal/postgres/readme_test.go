package postgres

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whoever reads a reason to hold finds it in the runbook: the longest part of each sentence that does not depend on the cluster.
func TestRunbook_EachReasonToHold_IsThere(t *testing.T) {
	page, err := os.ReadFile("../../infra/RUNBOOK.md")
	require.NoError(t, err)
	sentence := regexp.MustCompile(`(?:add\(|hold\(|return |Sprintf\()"((?:[^"\\]|\\.){8,})"`)
	found := 0
	for _, file := range []string{"assess.go", "candidate.go", "patroni.go", "cnpg.go", "version.go", "unattachable.go", "ready.go", "pause.go", "escort.go",
		"turn.go", "switch.go", "cnpg_switch.go", "move.go"} {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		text := string(source)
		if file == "assess.go" { // what follows are warnings
			text = strings.Replace(text, between(text, "func (f *Facts) warnings", "// lagLimit"), "", 1)
		}
		for _, match := range sentence.FindAllStringSubmatch(text, -1) {
			longest := ""
			for _, part := range regexp.MustCompile(`%[.0-9]*[a-z]|%`).Split(match[1], -1) {
				if part = strings.Trim(part, " :,"); len(part) > len(longest) {
					longest = part
				}
			}
			if strings.Contains(match[1], " ") && len(longest) > 8 && !strings.Contains(match[1], "moves were not tested") && !isPlain(match[1]) {
				if found++; !strings.Contains(string(page), longest) {
					t.Errorf("%s: the runbook lacks %q of %q", file, longest, match[1])
				}
			}
		}
	}
	require.Greater(t, found, 30)
}

// isPlain reports whether the sentence says why a member needs no move. The guide has those.
func isPlain(sentence string) bool {
	return strings.Contains(sentence, "takes no writes") && strings.Contains(sentence, "follows") || strings.Contains(sentence, "its volumes follow")
}

func between(text, from, to string) string {
	_, rest, _ := strings.Cut(text, from)
	inside, _, _ := strings.Cut(rest, to)
	return inside
}
