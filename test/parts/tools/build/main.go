// Command build builds the lab's programs that are not in the cache yet, and prints its progress. The argument demo leaves out what a
// demo does not need, and the argument all adds the operators. After --, it runs another `go build -v` with the same progress.
//
// The first build on a machine compiles Kubernetes, which takes minutes. Later runs only look into the cache. If another process is filling
// the cache, the command prints at once what that does, and waits.
//
// A program of the right version in KUBEBUILDER_ASSETS (https://book.kubebuilder.io/reference/envtest) or PATH is copied instead.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"quiesce/test/parts/tools"
	"quiesce/test/parts/tools/flock"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "--" {
		command(os.Args[2], os.Args[3:])
		return
	}
	flock.Main("tools", tools.Dir, fill)
}

// command runs another `go build -v` with the same progress.
func command(name string, args []string) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := (&progress{what: args[len(args)-1]}).run(exec.CommandContext(ctx, name, args...)); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

func fill(ctx context.Context, lock *os.File) error {
	wanted, err := wanted(os.Args[1:])
	if err != nil {
		return err
	}
	missing := copied(ctx, notBuilt(wanted))
	if len(missing) == 0 {
		return nil
	}
	announce(missing)
	for len(missing) > 0 {
		module := missing[0].Module
		batch := ofModule(missing, module)
		if err := build(ctx, module, batch, lock); err != nil {
			return fmt.Errorf("build %s: %w", names(batch), err)
		}
		missing = slices.DeleteFunc(missing, func(t tools.Tool) bool { return t.Module == module })
	}
	return nil
}

// wanted returns the programs that the arguments name.
func wanted(args []string) ([]tools.Tool, error) {
	switch {
	case slices.Equal(args, []string{"demo"}):
		return tools.Demo()
	case slices.Equal(args, []string{"all"}):
		return tools.All()
	case len(args) == 0:
		return tools.Lab()
	}
	return nil, errors.New("usage: build [demo | all | -- COMMAND...]")
}

func notBuilt(wanted []tools.Tool) (missing []tools.Tool) {
	for _, t := range wanted {
		if _, err := tools.Path(t.Name); err != nil {
			missing = append(missing, t)
		}
	}
	return missing
}

func ofModule(all []tools.Tool, m tools.Module) (some []tools.Tool) {
	for _, t := range all {
		if t.Module == m {
			some = append(some, t)
		}
	}
	return some
}

// announce prints what will be built, and how long that takes at most: what other builds on this machine have compiled is not compiled
// again.
func announce(missing []tools.Tool) {
	work := time.Duration(0)
	for _, t := range missing {
		work += time.Duration(t.Seconds) * time.Second
	}
	cores := runtime.GOMAXPROCS(0)
	fmt.Printf("tools: %s: not in the cache, and built from source now, once: at most about %s on %d idle cores, beside downloads\n",
		names(missing), (work / time.Duration(cores)).Round(10*time.Second), cores)
}

func names(some []tools.Tool) string {
	var all []string
	for _, t := range some {
		all = append(all, t.Name+" "+t.Version)
	}
	return strings.Join(all, ", ")
}
