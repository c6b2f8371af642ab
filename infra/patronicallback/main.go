package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// The callbacks, named as Patroni names them, and what the program runs as besides.
const (
	beforeStop   = "before_stop"
	onRoleChange = "on_role_change"
	install      = "install"
	detach       = "detach" // starts a watcher and ends
	watch        = "watch"  // is a watcher
)

const usage = `usage: patronicallback before_stop    FLAGS [-- COMMAND [ARGUMENT...]]
       patronicallback on_role_change FLAGS [-- COMMAND [ARGUMENT...]]
       patronicallback install FOLDER`

const (
	notStarted = 127 // the exit status of a command that could not be started, as of a shell
	// stopReserve is what a stop may take beyond the login to the poolers and the transactions.
	stopReserve = lookTimeout + 2*time.Second
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("program", "patronicallback")
	os.Exit(run(os.Args[1:], log))
}

// run returns the exit status.
func run(args []string, log *slog.Logger) int {
	if len(args) < 2 {
		fmt.Fprintln(os.Stderr, usage)
		return 2
	}
	var err error
	switch args[0] {
	case beforeStop, onRoleChange:
		return callback(args[0], args[1:], log)
	case detach:
		_, err = again(watch, args[1], args[2:], os.NewFile(readyFile, "ready"))
	case watch:
		err = runWatcher(args[1], args[2:], log)
	case install:
		err = copyTo(args[1])
	default:
		fmt.Fprintln(os.Stderr, usage)
		return 2
	}
	if err != nil {
		log.Error(args[0]+" failed", "error", err)
		return 1
	}
	return 0
}

// callback does what Patroni calls for, and runs the command that it would have called. Whatever fails in one changes nothing in the
// other. The exit status is the command's.
func callback(event string, args []string, log *slog.Logger) int {
	flags, theirs := args, []string(nil)
	if i := slices.Index(args, "--"); i >= 0 {
		flags, theirs = args[:i], args[i+1:]
	}
	o, rest, err := readOptions(flags)
	flags = flags[:len(flags)-len(rest)]
	if err == nil && (event == beforeStop || isPromotion(args)) {
		wait := time.Duration(0)
		if event == beforeStop {
			wait = openTime + o.transactions + stopReserve
		}
		err = startWatcher(event, flags, wait)
	}
	if err != nil {
		log.Error("poolers are left as they are", "error", err)
	}
	if len(theirs) == 0 {
		return 0
	}
	return chain(theirs, log)
}

// isPromotion reports whether Patroni has called on_role_change because the member becomes the primary. Patroni appends the action, the
// role and the cluster's name (https://patroni.readthedocs.io/en/latest/yaml_configuration.html#postgresql).
func isPromotion(args []string) bool {
	if len(args) < 3 {
		return false
	}
	last := args[len(args)-3:]
	return last[0] == onRoleChange && isPrimary(last[1])
}

// chain runs a command and returns its exit status.
func chain(command []string, log *slog.Logger) int {
	c := exec.Command(command[0], command[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := c.Run()
	if exit, is := errors.AsType[*exec.ExitError](err); is {
		if signaled, is := exit.Sys().(syscall.WaitStatus); is && signaled.Signaled() {
			return 128 + int(signaled.Signal()) // as a shell does
		}
		return exit.ExitCode()
	}
	if err != nil {
		log.Error("the other callback was not started", "error", err)
		return notStarted
	}
	return 0
}

// runWatcher is the process that holds clients and lets them go. Signals that are meant for callbacks do not end it.
func runWatcher(event string, flags []string, log *slog.Logger) error {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	ready := os.NewFile(readyFile, "ready")
	o, _, err := readOptions(flags)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), watchTime)
	defer cancel()
	if event == beforeStop {
		return newWatcher(o, log).pause(ctx, func() { _ = ready.Close() })
	}
	newWatcher(o, log).resume(ctx)
	return nil
}

// copyTo copies this program into a folder, for an init container: its image has nothing else.
func copyTo(folder string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	from, err := os.Open(self)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(folder, filepath.Base(self)), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}
