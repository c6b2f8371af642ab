package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// budgets are what the suites may take on two cores with warm caches: what they took, rounded up. The last one has all other packages.
var budgets = []struct {
	suite string
	time  time.Duration
}{
	{"quiesce/test/e2e/postgres", 17 * time.Minute},
	{"quiesce/test/e2e/pooler", 12 * time.Minute},
	{"quiesce/test/e2e", 9 * time.Minute},
	{others, 12 * time.Minute},
}

// others is the suite of all packages without one of their own.
const others = "all other packages"

// whole is the budget of all suites together. The goal is 25 minutes. That needs less work too: the cores are busy for 33 of them.
const whole = 49 * time.Minute

// result is the line of `go test` about a package. Its time does not count: packages are compiled first, and run beside others.
var result = regexp.MustCompile(`^(?:ok  |FAIL)\t(\S+)\t(?:[0-9.]+s|\(cached\)|\[)`)

// tested returns the package that a line is about, or nothing.
func tested(line string) string {
	found := result.FindStringSubmatch(line)
	if found == nil {
		return ""
	}
	return found[1]
}

func suiteOf(pkg string) string {
	for _, b := range budgets {
		if pkg == b.suite {
			return b.suite
		}
	}
	return others
}

// table is how long each suite took, and how long the cores were busy meanwhile, in sum.
type table struct{ wall, busy map[string]time.Duration }

func (t *table) add(suite string, wall, busy time.Duration) {
	if t.wall == nil {
		t.wall, t.busy = map[string]time.Duration{}, map[string]time.Duration{}
	}
	t.wall[suite] += wall
	t.busy[suite] += busy
}

func (t *table) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nSUITE\tMINUTES\tBUDGET\tCORES BUSY\t")
	var wall, busy time.Duration
	for i := range budgets {
		b := budgets[len(budgets)-1-i] // in the order in which they run
		if _, ran := t.wall[b.suite]; ran {
			row(w, b.suite, b.time, t.wall[b.suite], t.busy[b.suite])
			wall, busy = wall+t.wall[b.suite], busy+t.busy[b.suite]
		}
	}
	row(w, "together", whole, wall, busy)
	w.Flush()
}

func row(w io.Writer, name string, budget, wall, busy time.Duration) {
	share, warning := "?", ""
	if busy > 0 && wall > 0 {
		share = fmt.Sprintf("%.0f%%", 100*busy.Seconds()/wall.Seconds()/float64(runtime.NumCPU()))
	}
	if wall > budget {
		warning = "WARNING: over its budget"
	}
	fmt.Fprintf(w, "%s\t%.1f\t%.0f\t%s\t%s\n", name, wall.Minutes(), budget.Minutes(), share, warning)
}

// ticksPerSecond is the unit of /proc/stat, the same on all machines that Go supports.
const ticksPerSecond = 100

// busy returns for how long all cores together have not been idle since the machine started, or 0 if the machine does not say.
func busy() time.Duration {
	stat, _ := os.ReadFile("/proc/stat")
	first, _, _ := strings.Cut(string(stat), "\n")
	var ticks int
	for i, field := range strings.Fields(first) {
		const name, idle, ioWait, guest = 0, 4, 5, 9 // guests are in user time already
		if i == name || i == idle || i == ioWait || i >= guest {
			continue
		}
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond
}
