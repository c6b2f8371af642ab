// Command quiescectl is the tool for people who run quiesce, or think about it. It is no part of the function.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"k8s.io/klog/v2"
)

// The exit statuses.
const (
	// exitFindings: doctor found something of the severity of --fail-on, install verify found a difference, plan found no node,
	// resume left poolers paused, or the function says that something went wrong.
	exitFindings = 1
	exitError    = 2 // wrong usage, or no answer
)

func main() {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // client-go's warnings are not for this terminal
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends the process
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run runs one command, and returns the exit status.
func run(ctx context.Context, args []string, out, progress io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(progress)
	switch command, err := root.ExecuteContextC(ctx); {
	case errors.Is(err, errFindings) || errors.Is(err, errDiffers):
		return exitFindings
	case err != nil:
		fmt.Fprintln(progress, "error:", err)
		if isUsage(err) {
			fmt.Fprintln(progress, "see:", command.CommandPath(), "--help")
		}
		return exitError
	}
	return 0
}

// usageErrors begin what the command library says about a command line.
var usageErrors = []string{"unknown ", "required flag", "requires at least", "invalid argument", "flag needs", "if any flags", "bad flag"}

func isUsage(err error) bool {
	return slices.ContainsFunc(usageErrors, func(prefix string) bool { return strings.HasPrefix(err.Error(), prefix) })
}
