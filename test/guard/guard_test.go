package guard

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	// architecture is one for all numbers. It is the one for which the lab's function is built, so that its packages are in the build cache.
	architecture = "amd64"
	// sizeTolerance, in percent, lets ordinary changes pass: each one changes the size, and a reason in each commit would not be read.
	sizeTolerance = 1
	// allocationTolerance, in percent: maps grow by chance.
	allocationTolerance = 1
)

// Lambda loads the zip and starts the program for each new execution environment. Packages that it links cost time then, needed or not.
func TestFunction_SizePackagesAndInit_AreTheCommittedOnes(t *testing.T) {
	SameGo(t)
	program := filepath.Join(t.TempDir(), "bootstrap")
	command := buildCommand(t)
	printed(t, "sh", "-c", strings.Replace(command, "dist/bootstrap", program, 1))
	Within(t, "bytes of bootstrap", size(t, program), sizeTolerance)

	zip := program + ".zip"
	printed(t, "go", "run", "./infra/bundle", program, "infra/quiesce.yaml", zip)
	Within(t, "bytes of function.zip", size(t, zip), sizeTolerance)

	packages := printed(t, "sh", "-c", "GOOS=linux GOARCH="+architecture+" CGO_ENABLED=0 go list -deps -tags lambda.norpc ./lambda")
	Exact(t, "packages linked into lambda", strings.Count(packages, "\n"))
	requireInit(t, program)
}

// buildCommand returns the Makefile's command that builds the function. The version has always the same length.
func buildCommand(t *testing.T) string {
	t.Helper()
	recipe := printed(t, "make", "-n", "VERSION=v0.0.0", "COMMIT=000000000000", "GOARCH="+architecture, "build")
	for line := range strings.Lines(recipe) {
		if strings.Contains(line, "go build") && strings.Contains(line, "-o dist/bootstrap") {
			return line
		}
	}
	t.Fatal("make build builds no dist/bootstrap: ", recipe)
	return ""
}

// initialized matches what Go prints of the initialization of a package (https://pkg.go.dev/runtime#hdr-Environment_Variables).
var initialized = regexp.MustCompile(`(?m)^init \S+ .* (\d+) allocs$`)

// requireInit starts the program without a configuration, so that it ends after its initialization.
func requireInit(t *testing.T, program string) {
	t.Helper()
	if runtime.GOARCH != architecture {
		t.Log("the packages that are initialized are counted on " + architecture + " only: the program cannot be started here")
		return
	}
	start := exec.Command(program)
	start.Env = []string{"GODEBUG=inittrace=1"}
	trace, err := start.CombinedOutput()
	require.Error(t, err, "it has no configuration")
	packages, allocations := initialized.FindAllSubmatch(trace, -1), 0
	for _, p := range packages {
		n, err := strconv.Atoi(string(p[1]))
		require.NoError(t, err)
		allocations += n
	}
	Exact(t, "packages with init functions or variables to initialize", len(packages))
	Within(t, "allocations of all initialization", allocations, allocationTolerance)
}

// A node may have hundreds of pods. Whatever each of them allocates is collected while clients wait. The race detector changes the numbers,
// so a program without it measures them.
func TestDrain_AllocationsPerPod_AreTheCommittedOnes(t *testing.T) {
	SameGo(t)
	measured := printed(t, "sh", "-c", "CGO_ENABLED=0 go run -trimpath -buildvcs=false -tags lambda.norpc ./test/guard/allocations")
	var numbers map[string]int
	require.NoError(t, json.Unmarshal([]byte(measured), &numbers))
	require.NotEmpty(t, numbers)
	for what, n := range numbers {
		Exact(t, "allocations to "+what, n)
	}
}

// printed runs a command in the module's folder and returns what it printed. A make that runs the tests must not pass its flags on.
func printed(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	root, err := Root()
	require.NoError(t, err)
	var problems strings.Builder
	cmd := exec.Command(name, arguments...)
	cmd.Dir, cmd.Env, cmd.Stderr = root, append(os.Environ(), "MAKEFLAGS="), &problems
	output, err := cmd.Output()
	require.NoError(t, err, problems.String())
	return string(output)
}

func size(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return int(info.Size())
}

func TestCompare_OtherNumber_SaysTheDifference(t *testing.T) {
	for _, c := range []struct {
		got, percent int
		want         string
	}{
		{200, 0, ""}, {202, 1, ""}, {198, 1, ""},
		{201, 0, "requests rose from 200 to 201, by 1."},
		{203, 1, "requests rose from 200 to 203, by 3."},
		{199, 0, "requests fell from 200 to 199, by 1."},
		{197, 1, "requests fell from 200 to 197, by 3."},
	} {
		problem := compare("requests", c.got, 200, c.percent)
		require.Equal(t, c.want == "", problem == "", problem)
		require.Contains(t, problem, c.want)
	}
}

func TestSet_KnownAndNewName_KeepOtherLines(t *testing.T) {
	before := lines{"# a comment", "a: 1", "b: 2", ""}
	require.Equal(t, "2", before.value("b"))
	require.Empty(t, before.value("c"))
	after := before.set("a", "5").set("c", "3")
	require.Equal(t, lines{"# a comment", "a: 5", "b: 2", "c: 3", ""}, after)
}

func TestMinor_PatchedVersion_HasNoPatch(t *testing.T) {
	require.Equal(t, "1.26", minor("go1.26.8"))
	require.Equal(t, "1.26", minor("go1.26"))
}
