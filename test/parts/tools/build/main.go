// Command build builds the lab's programs that are not in the cache yet, and prints its progress. With the argument all, it also builds
// the operators.
//
// The first build on a machine compiles Kubernetes and takes about 15 minutes on two cores. Later runs only look into the cache. If another
// process is filling the cache, the command prints that at once and waits.
package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"quiesce/test/parts/tools"
	"quiesce/test/parts/tools/flock"
)

// progressInterval paces the lines about a running build: often enough to show life, rarely enough for a CI log.
const progressInterval = 15 * time.Second

func main() { flock.Main("tools", tools.Dir, fill) }

func fill(ctx context.Context, _ *os.File) error {
	wanted := tools.Lab()
	if slices.Contains(os.Args[1:], "all") {
		wanted = tools.All()
	}
	for _, t := range wanted {
		if _, err := tools.Path(t.Name); err == nil {
			continue
		}
		if err := build(ctx, t); err != nil {
			return fmt.Errorf("build %s: %w", t.Name, err)
		}
	}
	return nil
}

func build(ctx context.Context, t tools.Tool) error {
	path, err := t.Cached()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	unfinished := path + ".unfinished"
	cmd := exec.CommandContext(ctx, "go", "build", "-v", "-trimpath", "-o", unfinished,
		"-ldflags", strings.TrimSpace("-s -w "+t.LDFlags), t.Package)
	cmd.Dir = filepath.Join(tools.Folder, t.Module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if err := runWithProgress(cmd, t.Name+" "+t.Version); err != nil {
		return err
	}
	// The rename comes last, so that an interrupted build leaves nothing that looks like a program.
	return os.Rename(unfinished, path)
}

// runWithProgress runs a `go build -v`, which names each compiled package on its standard error, and prints the count.
func runWithProgress(cmd *exec.Cmd, what string) error {
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	fmt.Printf("tools: building %s\n", what)
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := make(chan string)
	go scan(stderr, lines)
	compiled, said := count(lines, what, began)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w\n%s", err, said)
	}
	fmt.Printf("tools: built %s: %d packages in %s\n", what, compiled, time.Since(began).Round(time.Second))
	return nil
}

func scan(r io.Reader, lines chan<- string) {
	defer close(lines)
	for s := bufio.NewScanner(r); s.Scan(); {
		lines <- s.Text()
	}
}

// count returns how many packages were compiled, and all lines that are not package names: the compiler's errors.
func count(lines <-chan string, what string, began time.Time) (compiled int, said string) {
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
			fmt.Printf("tools: building %s: %d packages so far, %s\n", what, compiled, time.Since(began).Round(time.Second))
		}
	}
}
