// Command smoke tries quiesce on a scratch Auto Scaling group of a scratch cluster. It deploys, terminates one instance, compares
// what happened with what should have, and cleans up. It uses public APIs only: AWS through the SDK, and the cluster through
// KUBECONFIG. So it runs on AWS, and on the lab's endpoints in its test.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() { os.Exit(smokeTest()) }

// smokeTest returns the exit status: 0 only if everything was as it should be, and nothing is left.
func smokeTest() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() {
		fmt.Fprintln(os.Stderr, "\nsmoke: stopping, and cleaning up first; once more ends it at once, and leaves what is there")
		stop()
	})
	settings, err := readSettings(os.Getenv)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	s, err := newSmoke(ctx, settings)
	if err != nil {
		fmt.Fprintln(os.Stderr, "smoke:", err)
		return 1
	}
	failed := s.run(ctx)
	path := filepath.Join(settings.Folder, "summary.md")
	fmt.Fprintf(settings.Out, "\n%s\n", s.summary())
	if err := os.WriteFile(path, []byte(s.summary()), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "smoke:", err)
		return 1
	}
	fmt.Fprintln(settings.Out, "smoke: the summary is in", path)
	if failed != nil {
		return 1
	}
	return 0
}
