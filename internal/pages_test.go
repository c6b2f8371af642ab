package internal

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	fencedBlock = regexp.MustCompile("(?ms)^[ \t]*```.*?^[ \t]*```")
	headingLine = regexp.MustCompile(`(?m)^#+ (.*)$`)
	linkTarget  = regexp.MustCompile(`\]\(([^)]+)\)`)
	linkText    = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}_\- ]`)
)

// Links between pages lead to files that exist, and to headings that these have.
func TestPages_RelativeLinks_LeadSomewhere(t *testing.T) {
	listed, err := exec.CommandContext(t.Context(), "git", "-C", "..", "ls-files", "-z", "*.md").Output()
	require.NoError(t, err)
	for page := range strings.SplitSeq(strings.Trim(string(listed), "\x00"), "\x00") {
		path := filepath.Join("..", page)
		for _, link := range linkTarget.FindAllStringSubmatch(proseOf(t, path), -1) {
			target, anchor, _ := strings.Cut(link[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			file := path
			if target != "" {
				file = filepath.Join(filepath.Dir(path), target)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s, which does not exist", page, link[1])
				continue
			}
			if anchor != "" && !headingsOf(t, file)[anchor] {
				t.Errorf("%s links to %s, and there is no such heading", page, link[1])
			}
		}
	}
}

// proseOf returns a page without its code blocks.
func proseOf(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return fencedBlock.ReplaceAllString(string(text), "")
}

// headingsOf returns the anchors that GitHub makes of a page's headings.
func headingsOf(t *testing.T, path string) map[string]bool {
	t.Helper()
	anchors := map[string]bool{}
	for _, heading := range headingLine.FindAllStringSubmatch(proseOf(t, path), -1) {
		text := linkText.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading[1])), "$1")
		anchors[strings.ReplaceAll(notInAnchor.ReplaceAllString(text, ""), " ", "-")] = true
	}
	return anchors
}
