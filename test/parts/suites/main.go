// Command suites runs the tests. At the end it repeats what failed, and prints how long each suite took beside its budget. Each argument is a command line with
// `go test`. They run one after the other, all of them, and the command fails if one does.
//
// A suite that takes longer than its budget is a warning and no failure: time is the machine's. How busy the cores were says whether a
// suite waits or works.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	var took table
	var wrong failures
	failed := false
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	for _, command := range os.Args[1:] {
		if ctx.Err() != nil {
			break
		}
		if err := run(ctx, command, &took, &wrong); err != nil {
			failed = true
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
				fmt.Fprintln(os.Stderr, "suites:", err)
			}
		}
	}
	wrong.print(os.Stdout)
	took.print(os.Stdout)
	if failed || ctx.Err() != nil {
		os.Exit(1)
	}
}

// run runs a command, prints what it prints, and adds to the table how long each suite took, and to wrong what failed. When ctx ends, so does all that the command has
// started: it is a process group of its own.
func run(ctx context.Context, command string, to *table, wrong *failures) error {
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	began := now()
	if err := cmd.Start(); err != nil {
		return err
	}
	fold(io.TeeReader(stdout, os.Stdout), began, now, to, wrong)
	return cmd.Wait()
}

// fold reads the output of `go test`. A suite takes from the end of the one before it to its own, compiling included: packages of a suite
// run at the same time, and suites one after the other.
func fold(output io.Reader, began instant, now func() instant, to *table, wrong *failures) {
	last := began
	for lines := bufio.NewReader(output); ; {
		line, err := lines.ReadString('\n')
		wrong.see(line)
		if pkg := tested(line); pkg != "" {
			ended := now()
			to.add(suiteOf(pkg), ended.Sub(last.Time), ended.busy-last.busy)
			last = ended
		}
		if err != nil {
			return
		}
	}
}

// instant is a time and how long the cores have been busy until then.
type instant struct {
	time.Time
	busy time.Duration
}

func now() instant { return instant{time.Now(), busy()} }
