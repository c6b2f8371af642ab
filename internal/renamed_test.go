package internal

import (
	"bytes"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// renamed are the public strings that were replaced before the first release: configuration keys, report fields and values, metrics,
// alarms, IAM Sids, annotations, log messages, Kubernetes event reasons. Each is a whole token. A word that is an ordinary word as
// well stands here in the form that only the public string had.
var renamed = []string{
	// Configuration keys, and values.
	`joinGrace`, `volumeDetach`, `logDays`, `spotNotices`, `spotInterruptions`, `drain\.reserve`, `drain\.concurrency`, `stack\.concurrency`,
	`stack\.reserved`, `stack\.reports`, `pgbouncer\.via`, `via: (?:podIP|portForward)`, `onDeadline: leave`, `reserved: (?:true|false)`,
	`reports: (?:true|false)`,
	// Fields and values of reports.
	`"heldBack"`, `json:"(?:lifecycle|heldBack|cut|lost|owned|enqueued|faults|never|notice|budgets|allowed|healthy|desired|expected)(?:,omitempty)?"`,
	`"status": ?"left"`, `"outcome": ?"left"`, `"verdict": ?"leave"`,
	`json:"(?:maxDuration|reserve|hookHeartbeatTimeout|hookGlobalTimeout|available|longestGrace)(?:,omitempty)?"`, `= "left"`, `= "leave"`,
	// Metrics.
	`SlicesFailed`, `HandOvers`, `PodsLeft`, `QueueSeconds`, `BlockedSeconds`, `TransactionsCut`, `count\(Malformed`, `"Enqueued"`, `"Owned"`,
	`"Waiting"(?:,|:)`,
	// Alarms.
	`"dead letters"`, `"pods forced"`, `"hook expired"`, `"drain failed"`, `"drains go wrong"`, `"events wait"`, `"oldest event"`, `"no sweep"`,
	// Sids of IAM statements.
	`LookAtGroups`, `HoldAndLetGo`, `"FindNodes"`, `FindCluster`, `LookAtNetwork`, `NetworkIsNotForTheCode`,
	// Labels and annotations.
	`quiesce/escorted`,
	// Log messages.
	`"not done"`, `handed over`, `moved to the dead letters`, `"not started"`, `EC2 was of no help`, `no event was made`, `the report was not kept`,
	`the lease was not given back`, `the message's visibility was not changed`, `a notice says that the instance goes sooner`,
	`the drain under way was not told of the notice`, `the event is of an action that is over`, `completion failed, and is repeated`,
	`the hook is not known`, `kubelet heard of again`, `phase began`, `phase emptied`, `escort began`, `"escort ended"`, `pooler shuts down`,
	`pooler was not quiet in time`, `pooler cannot be escorted`, `what surrounds the pooler is not known`, `an escort before this one crashed`,
	`what it left is not undone`, `the group's lease ends by itself`, `sessions may go on`, `event lost: enqueued`, `not swept`,
	`"no plan"`, `"escort not undone"`, `"surge begun"`, `"surge given up"`, `"pooler evicted"`, `"pooler paused"`, `"pooler shut down"`,
	`"pooler not shut down"`, `pooler left to its grace period`, `"replacement is ready"`, `volumes are still attached`,
	`node restored: its instance came back`, `other terminating nodes were not tainted`, `a DaemonSet's pod was`,
	// Reasons.
	`the deadline came`, `nobody there stops it`, `is not one of ours`, `past waiting, nothing can be done`,
	// Titles of the dashboard.
	`Instances on their way out`, `Invocations, events taken, events that wait`, `Drains that are not done`, `Held up: by budgets`,
	`Drains that did not get their way`, `instances gone too soon`, `How it goes`,
	// Names of the Secret in samples.
	`pgbouncer-console`,
}

// pointsToNewNames are the files that must name old strings: the error for an old configuration key, its tests, and this list.
var pointsToNewNames = map[string]bool{
	"internal/renamed_test.go":        true,
	"internal/config/renamed.go":      true,
	"internal/config/renamed_test.go": true,
}

func TestRenamedStrings_WholeTree_AreGone(t *testing.T) {
	var old []oldString
	for _, pattern := range renamed {
		old = append(old, newOldString(t, pattern))
	}
	for name, text := range trackedFiles(t) {
		if pointsToNewNames[name] {
			continue
		}
		for _, o := range old {
			for _, line := range o.lines(text) {
				t.Errorf("%s:%d: %s", name, line, o.start)
			}
		}
	}
}

// trackedFiles returns the repository's files, and their names.
func trackedFiles(t *testing.T) iter.Seq2[string, []byte] {
	t.Helper()
	listed, err := exec.CommandContext(t.Context(), "git", "-C", "..", "ls-files", "-z").Output()
	require.NoError(t, err)
	return func(yield func(string, []byte) bool) {
		for name := range strings.SplitSeq(strings.Trim(string(listed), "\x00"), "\x00") {
			text, err := os.ReadFile(filepath.Join("..", name))
			if os.IsNotExist(err) {
				continue // deleted in the working tree
			}
			require.NoError(t, err)
			if !yield(name, text) {
				return
			}
		}
	}
}

// oldString is one of the renamed strings. Files are searched for its literal start first: one expression of all strings takes a minute and
// more with the race detector.
type oldString struct {
	start []byte
	whole *regexp.Regexp
}

func newOldString(t *testing.T, pattern string) oldString {
	t.Helper()
	start, _ := regexp.MustCompile(pattern).LiteralPrefix()
	require.NotEmpty(t, start, pattern)
	return oldString{[]byte(start), regexp.MustCompile(`(^|[^\w])(` + pattern + `)($|[^\w])`)}
}

// lines returns the numbers of the lines that have the string.
func (o oldString) lines(text []byte) (numbers []int) {
	if !bytes.Contains(text, o.start) {
		return nil
	}
	for n, line := range bytes.Split(text, []byte("\n")) {
		if bytes.Contains(line, o.start) && o.whole.Match(line) {
			numbers = append(numbers, n+1)
		}
	}
	return numbers
}

func TestOldString_WholeTokenOnly_LinesFound(t *testing.T) {
	o := newOldString(t, `drain\.reserve`)
	require.Equal(t, []int{1, 3}, o.lines([]byte("drain.reserve\ndrain.reserved\nold: drain.reserve: 5s\ndrainsreserve")))
	require.Equal(t, []int{2}, newOldString(t, `"Waiting"(?:,|:)`).lines([]byte("\"Waiting\"\nx, \"Waiting\", y")))
	require.Empty(t, o.lines(nil))
}
