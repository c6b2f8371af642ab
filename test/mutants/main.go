// Command mutants changes one condition or number of the code after the other, and says how many of these changes the tests notice. It uses
// gremlins (https://gremlins.dev). Without arguments it takes all of subjects.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

const (
	// goal is the part of the changes, in percent, that tests notice at the least. The others are listed in test/README.md with their
	// reasons.
	goal = 97
	// timeout is how many times as long as usual the tests may take after a change. One that loops ends then, and counts as noticed. So
	// nothing else should run on the machine: slow tests would count, too.
	timeout = "4"
	// mostLate is the part of the changes, in percent, that may end at the timeout. Few changes make a loop. Many mean that the tests were
	// slow, and then they may not have noticed anything.
	mostLate = 10
	// memory bounds each process, because some changes loop and allocate. Linkers reserve a few gigabytes.
	memory = 12 << 30
	// seeds are the simulated scenarios for one change. All of them would take hours.
	seeds = "100"
)

// subjects are the packages, and those of their files that are changed; none: all.
var subjects = map[string][]string{
	"internal/drain":       nil,
	"internal/config":      nil,
	"internal/termination": nil,
	"internal/asg":         nil,
	"internal/postgres":    {"assess.go", "candidate.go", "facts.go", "only_copy.go", "unattachable.go", "version.go", "work.go"},
}

func main() {
	log.SetFlags(0)
	if err := run(os.Args[1:]); err != nil {
		log.Fatal("mutants: ", err)
	}
}

func run(packages []string) error {
	if len(packages) == 0 {
		for name := range subjects {
			packages = append(packages, name)
		}
		slices.Sort(packages)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: memory, Max: memory}); err != nil {
		return fmt.Errorf("limit the memory: %w", err)
	}
	var errs []error
	for _, name := range packages {
		found, err := mutate(name)
		if err == nil {
			fmt.Print(found.text(name))
			err = found.check(name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// mutate runs gremlins for one package, with one change at a time: more would slow down each other's tests, until these time out.
func mutate(name string) (report, error) {
	exclude, err := others(name, subjects[name])
	if err != nil {
		return report{}, err
	}
	folder, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return report{}, err
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "report.json")
	cmd := exec.Command("nice", append([]string{
		"go", "tool", "-modfile=test/parts/tools/lint/go.mod", "gremlins", "unleash", "--silent", "--workers", "1",
		"--timeout-coefficient", timeout, "--output", path,
	}, append(exclude, "./"+name)...)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	// A cached result would seem to take no time, and then every change would end at the timeout.
	cmd.Env = append(os.Environ(), "GOFLAGS=-vet=off -count=1", "SEEDS="+cmp.Or(os.Getenv("SEEDS"), seeds))
	if err := cmd.Run(); err != nil {
		return report{}, fmt.Errorf("gremlins in %s: %w", name, err)
	}
	written, err := os.ReadFile(path)
	if err != nil {
		return report{}, err
	}
	var r report
	return r, json.Unmarshal(written, &r)
}

// others returns the arguments that exclude the other files of a package; none are excluded if no file is wanted.
func others(name string, wanted []string) (arguments []string, err error) {
	if wanted == nil {
		return nil, nil
	}
	files, err := filepath.Glob(filepath.Join(name, "*.go"))
	for _, file := range files {
		if base := filepath.Base(file); !slices.Contains(wanted, base) {
			arguments = append(arguments, "--exclude-files", "^"+regexp.QuoteMeta(base)+"$")
		}
	}
	return arguments, err
}

// report is what gremlins writes (https://gremlins.dev/latest/usage/commands/unleash/).
type report struct {
	Files []struct {
		Name      string     `json:"file_name"`
		Mutations []mutation `json:"mutations"`
	} `json:"files"`
}

type mutation struct {
	Type, Status string
	Line, Column int
}

// counts returns how many changes of covered code tests noticed, how many of these at the timeout, and how many changes there were.
func (r report) counts() (noticed, late, covered int) {
	states := map[string]int{}
	for _, file := range r.Files {
		for _, m := range file.Mutations {
			states[m.Status]++
		}
	}
	late = states["TIMED OUT"]
	noticed = states["KILLED"] + late
	return noticed, late, noticed + states["LIVED"]
}

// text says what was found, with the place of each change that was not noticed.
func (r report) text(name string) string {
	var lines []string
	for _, file := range r.Files {
		for _, m := range file.Mutations {
			if m.Status == "LIVED" {
				lines = append(lines, fmt.Sprintf("  not noticed: %s/%s:%d:%d %s\n", name, file.Name, m.Line, m.Column, strings.ToLower(m.Type)))
			}
		}
	}
	slices.Sort(lines)
	noticed, late, covered := r.counts()
	return fmt.Sprintf("%s: %d of %d changes noticed, %d of them at the timeout\n%s", name, noticed, covered, late, strings.Join(lines, ""))
}

// check returns an error if tests notice too few changes, or if there were none: then something else is wrong. So it is if many changes
// end at the timeout.
func (r report) check(name string) error {
	noticed, late, covered := r.counts()
	switch {
	case covered == 0 || noticed*100 < covered*goal:
		return fmt.Errorf("%s: %d of %d changes noticed, less than %d %%", name, noticed, covered, goal)
	case late*100 > covered*mostLate:
		return fmt.Errorf("%s: %d of %d changes ended at the timeout, more than %d %%: run it again on a machine that does nothing else",
			name, late, covered, mostLate)
	}
	return nil
}
