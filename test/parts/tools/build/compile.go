package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"quiesce/test/parts/tools"
	"quiesce/test/parts/tools/flock"
)

// progressInterval paces the lines about a running build: often enough to show life, rarely enough for a CI log.
const progressInterval = 15 * time.Second

// build builds programs of one module with one command: while one is linked, packages of the others are compiled.
func build(ctx context.Context, m tools.Module, batch []tools.Tool, lock *os.File) error {
	first, err := batch[0].Cached()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(first), 0o755); err != nil {
		return err
	}
	unfinished, err := os.MkdirTemp(filepath.Dir(first), ".unfinished-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(unfinished)
	args := append([]string{"build", "-v", "-o", unfinished + "/"}, m.Flags()...)
	for _, t := range batch {
		args = append(args, t.Package)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(tools.Folder, m.Folder)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if err := (&progress{what: m.Folder, lock: lock}).run(cmd); err != nil {
		return err
	}
	return move(batch, unfinished)
}

// move gives finished programs their place. It comes last, so that an interrupted build leaves nothing that looks like a program.
func move(batch []tools.Tool, from string) error {
	for _, t := range batch {
		to, err := t.Cached()
		if err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(from, output(t.Package)), to); err != nil {
			return err
		}
	}
	return nil
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

// output returns the name that `go build` gives to a program.
func output(pkg string) string {
	if majorVersion.MatchString(path.Base(pkg)) {
		pkg = path.Dir(pkg)
	}
	return path.Base(pkg)
}

// progress prints how far a build is, and tells processes that wait for it.
type progress struct {
	what string
	lock *os.File // read by those who wait; nil: nobody does
}

// run runs a `go build -v`, which names each compiled package on its standard error, and prints the count.
func (p *progress) run(cmd *exec.Cmd) error {
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := make(chan string)
	go scan(stderr, lines)
	compiled, said := p.count(lines, began)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w\n%s", err, said)
	}
	if took := time.Since(began); p.lock != nil || took > progressInterval {
		fmt.Printf("tools: built %s: %d packages in %s\n", p.what, compiled, took.Round(time.Second))
	}
	return nil
}

func scan(r io.Reader, lines chan<- string) {
	defer close(lines)
	for s := bufio.NewScanner(r); s.Scan(); {
		lines <- s.Text()
	}
}

// count returns how many packages were compiled, and all lines that are not package names: the compiler's errors.
func (p *progress) count(lines <-chan string, began time.Time) (compiled int, said string) {
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	var other bytes.Buffer
	for {
		select {
		case line, open := <-lines:
			switch {
			case !open:
				return compiled, other.String()
			case strings.ContainsAny(line, " :"):
				fmt.Fprintln(&other, line)
			default:
				compiled++
			}
		case <-tick.C:
			state := fmt.Sprintf("building %s: %d packages so far, %s", p.what, compiled, time.Since(began).Round(time.Second))
			fmt.Println("tools: " + state)
			if p.lock != nil {
				flock.Tell(p.lock, state)
			}
		}
	}
}
