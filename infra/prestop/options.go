package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"time"
)

const (
	// defaultQuietFor is how long no new client may have come before SIGINT. Node proxies take a second or two to learn that a pod leaves;
	// a busy cluster takes longer, and then clients keep this period from ending. More would delay each stop, which has only its grace.
	defaultQuietFor = 5 * time.Second
	// defaultAcceptFor is how long the hook waits for that at most. New clients come for as long as no other pooler is ready. Half of
	// Kubernetes' default grace period is left for open transactions.
	defaultAcceptFor = 15 * time.Second
	// defaultGrace is terminationGracePeriodSeconds where a manifest sets none.
	defaultGrace = 30 * time.Second
	// defaultLog is the pod's log: what process 1 of the container prints.
	defaultLog = "/proc/1/fd/1"
)

// options are the settings of the hook.
type options struct {
	quietFor, acceptFor, grace time.Duration

	pid     int
	pidFile string
	port    int
	logFile string
	dryRun  bool
}

// span is a time such as 90s. A number is one of seconds, as in a manifest.
type span time.Duration

func (s *span) String() string { return time.Duration(*s).String() }

func (s *span) Set(text string) error {
	if _, err := strconv.Atoi(text); err == nil {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return errors.New("write a time such as 90s")
	}
	*s = span(d)
	return nil
}

// usageError is a command line that cannot be used.
type usageError struct{ error }

func (o *options) flags() *flag.FlagSet {
	set := flag.NewFlagSet("prestop pgbouncer", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	o.quietFor, o.acceptFor, o.grace = defaultQuietFor, defaultAcceptFor, defaultGrace
	set.Var((*span)(&o.quietFor), "quiet-for", "how long no new client may have come before pgbouncer is told to stop")
	set.Var((*span)(&o.acceptFor), "accept-for", "longest wait for --quiet-for; at most half of --grace")
	set.Var((*span)(&o.grace), "grace", "the pod's terminationGracePeriodSeconds")
	set.IntVar(&o.pid, "pid", 0, "pgbouncer's process; by default the one with that name")
	set.StringVar(&o.pidFile, "pid-file", "", "pgbouncer's pidfile; not with --pid")
	set.IntVar(&o.port, "port", 0, "pgbouncer's port, if the hook's user cannot see pgbouncer's sockets")
	set.StringVar(&o.logFile, "log", defaultLog, "where messages go, beside stderr")
	set.BoolVar(&o.dryRun, "dry-run", false, "show what the hook finds, and change nothing")
	return set
}

func readOptions(args []string) (o options, err error) {
	set := o.flags()
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return o, err
	case err != nil:
		return o, usageError{err}
	case set.NArg() > 0:
		return o, usageError{fmt.Errorf("%q is not a flag", set.Arg(0))}
	case o.quietFor < 0 || o.acceptFor < 0 || o.grace <= 0:
		return o, usageError{errors.New("--quiet-for and --accept-for must not be negative, and --grace must be positive")}
	case o.pid < 0 || o.port < 0 || o.port > 65535:
		return o, usageError{errors.New("--pid must not be negative, and --port must be from 0 to 65535")}
	case o.pid > 0 && o.pidFile != "":
		return o, usageError{errors.New("--pid and --pid-file exclude each other")}
	}
	return o, nil
}

// accept returns how long new clients may keep the hook waiting. At least half of the grace period is for open transactions. That is no
// error of usage: a hook that fails lets SIGTERM through.
func (o options) accept() time.Duration { return min(o.acceptFor, o.grace/2) }

func printUsage(w io.Writer) {
	fmt.Fprint(w, usage)
	set := new(options).flags()
	set.VisitAll(func(f *flag.Flag) {
		kind, text := flag.UnquoteUsage(f)
		if _, is := f.Value.(*span); is {
			kind = "time"
		}
		if f.DefValue != "" && f.DefValue != "0" && f.DefValue != "false" {
			text += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(w, "  --%-20s %s\n", f.Name+" "+kind, text)
	})
}
