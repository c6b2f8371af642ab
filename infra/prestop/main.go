package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
)

const usage = `usage: prestop pgbouncer [FLAG...]   stop the pgbouncer of this container, and wait until it is gone
       prestop install FOLDER       copy this program into a folder, for an init container

flags of prestop pgbouncer:
`

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stderr)) }

// run returns the exit status.
func run(ctx context.Context, args []string, stderr io.Writer) int {
	err := error(usageError{errors.New("name a command")})
	switch {
	case len(args) == 0:
	case args[0] == "pgbouncer":
		err = stopPgbouncer(ctx, args[1:], stderr)
	case args[0] == "install" && len(args) == 2:
		err = install(args[1])
	case args[0] == "help" || args[0] == "--help" || args[0] == "-h":
		err = flag.ErrHelp
	default:
		err = usageError{fmt.Errorf("there is no such command: %q", args)}
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		printUsage(stderr)
		return 0
	case errors.As(err, new(usageError)):
		fmt.Fprintln(stderr, "prestop:", err)
		printUsage(stderr)
		return 2
	}
	fmt.Fprintln(stderr, "prestop:", err)
	return 1
}

// stopPgbouncer is the hook. Its messages go to the pod's log and to stderr: the kubelet shows what a hook prints only when it fails.
func stopPgbouncer(ctx context.Context, args []string, stderr io.Writer) error {
	o, err := readOptions(args)
	if err != nil {
		return err
	}
	output := io.Writer(stderr)
	pod, err := openPodLog(o.logFile)
	if err == nil {
		defer pod.Close()
		output = io.MultiWriter(podWriter{pod}, stderr)
	}
	log := slog.New(slog.NewTextHandler(output, nil)).With("program", "prestop")
	if err != nil {
		log.Warn("the pod's log cannot be written, messages go to stderr only", "error", err.Error())
	}
	if err := newHook(o, log).run(ctx); err != nil {
		log.Error("pgbouncer was not stopped: the kubelet's SIGTERM comes next", "error", err.Error())
		return err
	}
	return nil
}

// install copies this program into a folder, for an init container: its image has nothing else.
func install(folder string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	from, err := os.Open(self)
	if err != nil {
		return fmt.Errorf("read this program: %w", err)
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(folder, filepath.Base(self)), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("copy this program: %w: mount an emptyDir there, and let the init container's user write to it", err)
	}
	_, err = io.Copy(to, from)
	if err := errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("copy this program: %w", err)
	}
	return nil
}
