package internal

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "quiesce/"

// allowedImports are the imports among our own packages: the domain in the middle, one adapter per technology around it, and only the
// function's main joins them. internal/README.md has the same table (TestReadme_ImportTable_IsTheEnforcedOne).
var allowedImports = map[string][]string{
	"lambda": {
		"internal/archive", "internal/asg", "internal/config", "internal/customresource", "internal/drain", "internal/eks", "internal/kube",
		"internal/metrics", "internal/escort", "internal/pooler", "internal/postgres", "internal/queue", "internal/secrets", "internal/termination",
		"internal/wire",
	},
	"infra":                 {"internal/config", "internal/metrics"}, // the names of metrics
	"infra/afterdeploy":     {"internal/termination"},                // the answer to a check
	"infra/bundle":          {"internal/config"},
	"infra/patronicallback": {"internal/pgbouncer"}, // it runs in Patroni's containers
	"infra/quiescectl": {
		"internal/asg", "internal/config", "internal/doctor", "internal/drain", "internal/escort", "internal/install",
		"internal/kube", "internal/pgbouncer", "internal/pooler", "internal/postgres", "internal/queue", "internal/rotate", "internal/secrets", "internal/termination",
		"internal/timeline", "internal/wire",
	},
	"infra/roles":             {"internal/scram"}, // it runs in a Job's container
	"infra/prestop":           {},                 // it runs in pgbouncer's containers
	"events":                  {},
	"internal/archive":        {"internal/termination"},
	"internal/asg":            {"internal/termination"},
	"internal/config":         {},
	"internal/customresource": {"internal/config", "internal/drain"},
	"internal/doctor": {
		"internal/asg", "internal/config", "internal/drain", "internal/escort", "internal/kube", "internal/pooler", "internal/postgres",
		"internal/termination",
	},
	"internal/drain":       {},
	"internal/eks":         {},
	"internal/install":     {"internal/config"},
	"internal/kube":        {"internal/drain", "internal/escort", "internal/termination"},
	"internal/metrics":     {"internal/drain", "internal/termination"},
	"internal/escort":      {"internal/drain", "internal/pgbouncer"},
	"internal/pgbouncer":   {},
	"internal/pooler":      {"internal/config", "internal/drain", "internal/escort", "internal/pgbouncer"},
	"internal/postgres":    {"internal/config", "internal/drain", "internal/escort", "internal/pgbouncer"},
	"internal/queue":       {"internal/termination"},
	"internal/rotate":      {"internal/escort", "internal/kube", "internal/pgbouncer", "internal/pooler", "internal/scram"},
	"internal/scram":       {},
	"internal/secrets":     {"internal/escort"},
	"internal/svg":         {},
	"internal/termination": {"internal/drain"},
	"internal/timeline":    {"internal/drain", "internal/svg", "internal/termination"},
	"internal/wire": {
		"internal/asg", "internal/config", "internal/drain", "internal/escort", "internal/kube", "internal/pooler", "internal/postgres",
		"internal/secrets", "internal/termination",
	},
}

type listed struct {
	ImportPath string
	Doc        string
	Standard   bool
	Imports    []string
}

func TestPackages_Imports_AreAllowed(t *testing.T) {
	for _, pkg := range list(t, module+"lambda", module+"infra/...", module+"events", module+"internal/...") {
		name := strings.TrimPrefix(pkg.ImportPath, module)
		allowed, known := allowedImports[name]
		if !known && pkg.ImportPath != module+"internal" && !strings.HasSuffix(name, "test") {
			t.Errorf("%s has no allowed imports: add it to allowedImports, or move it", name)
		}
		for _, imported := range pkg.Imports {
			if ours, is := strings.CutPrefix(imported, module); is && known {
				require.Contains(t, allowed, ours, "%s must not import %s", name, ours)
			}
		}
	}
}

func TestReadme_ImportTable_IsTheEnforcedOne(t *testing.T) {
	full := func(name string) string {
		if _, known := allowedImports[name]; known {
			return name
		}
		return "internal/" + name
	}
	inPage := map[string][]string{}
	for line := range strings.Lines(sectionOf(t, "README.md", "## Import rules")) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		imports := []string{}
		for _, name := range backquoted.FindAllStringSubmatch(cells[2], -1) {
			imports = append(imports, full(name[1]))
		}
		if strings.Contains(cells[2], "all of `internal` except") {
			except := append(imports, "internal")
			imports = slices.DeleteFunc(slices.Sorted(maps.Keys(allowedImports)), func(name string) bool {
				return !strings.HasPrefix(name, "internal/") || slices.Contains(except, name)
			})
		}
		for _, name := range backquoted.FindAllStringSubmatch(cells[1], -1) {
			inPage[full(name[1])] = slices.Sorted(slices.Values(imports))
		}
	}
	for name, imports := range allowedImports {
		require.ElementsMatch(t, imports, inPage[name], "internal/README.md: what %s may import", name)
	}
	require.Len(t, inPage, len(allowedImports))
}

func TestDrain_Imports_StandardLibraryOnly(t *testing.T) {
	for _, pkg := range list(t, "-deps", module+"internal/drain") {
		require.True(t, pkg.Standard || pkg.ImportPath == module+"internal/drain", "internal/drain imports %s", pkg.ImportPath)
	}
}

func TestCDK_Imports_InfraOnly(t *testing.T) {
	for _, pkg := range list(t, module+"lambda", module+"internal/...", module+"events", module+"test/...") {
		require.False(t, slices.ContainsFunc(pkg.Imports, func(imported string) bool {
			return strings.HasPrefix(imported, "github.com/aws/aws-cdk-go")
		}), "%s imports aws-cdk-go", pkg.ImportPath)
	}
}

func TestPackages_Comment_IsThere(t *testing.T) {
	for _, pkg := range list(t, module+"...") {
		if pkg.ImportPath != module+"internal" {
			require.NotEmpty(t, pkg.Doc, "%s has no package comment", pkg.ImportPath)
		}
	}
}

// The race detector may crash in bubbles that no one limits to one thread.
func TestBubbles_AllTests_RunOnOneThread(t *testing.T) {
	bubbles := 0
	for name, text := range trackedFiles(t) {
		bubbles += bytes.Count(text, []byte("bubble.Test("))
		if path.Ext(name) == ".go" && path.Dir(name) != "test/parts/bubble" && path.Base(name) != "arch_test.go" {
			require.NotContains(t, string(text), "synctest.Test(", "%s: use quiesce/test/parts/bubble", name)
		}
	}
	require.Positive(t, bubbles)
}

// testName is TestSubject_Condition_Result. Where nothing special is the condition, TestSubject_Result says all. A version or a second result
// may take a fourth part.
var testName = regexp.MustCompile(`(?m)^func (Test\w+)\(\w+ \*testing\.T\)`)

func TestNames_EveryTest_SubjectConditionResult(t *testing.T) {
	tests := 0
	for name, text := range trackedFiles(t) {
		if !strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, found := range testName.FindAllSubmatch(text, -1) {
			parts := strings.Split(string(found[1]), "_")
			require.Contains(t, []int{2, 3, 4}, len(parts), "%s: %s has not two to four parts, as TestSubject_Condition_Result has", name, found[1])
			tests++
		}
	}
	require.Positive(t, tests)
}

func list(t *testing.T, patterns ...string) []listed {
	t.Helper()
	args := append([]string{"list", "-json=ImportPath,Doc,Standard,Imports"}, patterns...)
	command := exec.CommandContext(t.Context(), "go", args...)
	command.Dir = ".."
	output, err := command.Output()
	require.NoError(t, err)
	var found []listed
	for decoder := json.NewDecoder(strings.NewReader(string(output))); ; {
		var pkg listed
		err := decoder.Decode(&pkg)
		if errors.Is(err, io.EOF) {
			require.NotEmpty(t, found)
			return found
		}
		require.NoError(t, err)
		found = append(found, pkg)
	}
}
