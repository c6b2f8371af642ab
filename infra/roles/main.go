package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// What the program is asked to do.
const (
	up     = "up"
	down   = "down"
	verify = "verify"
)

// The exit statuses, as those of diff.
const (
	same    = 0
	differs = 1 // verify only
	trouble = 2
)

const usage = `usage: roles up|down|verify [-f roles.yaml] [flags]

  up      makes the roles that the file declares, and changes those that differ
  down    drops them; what they own goes to the role in reassignTo
  verify  prints what up would change, and exits 1 if that is anything

Without -f it is about one role for replication:
  POSTGRES_REPLICATION_USERNAME (replicator), POSTGRES_REPLICATION_PASSWORD

The server and the superuser to log in as:
  POSTGRES_HOSTNAME (localhost; several hosts with commas: it finds the primary), POSTGRES_PORT (5432), POSTGRES_DATABASE (postgres),
  POSTGRES_USERNAME (postgres), POSTGRES_PASSWORD; PGSSLMODE (prefer), PGSSLROOTCERT (a file: then verify-full), and libpq's other variables

Flags:
`

const (
	// defaultWait is how long a primary may be missing: longer than a failover, which takes Patroni half a minute.
	defaultWait = 2 * time.Minute
	// defaultTimeout bounds the work. A Job should end earlier than its activeDeadlineSeconds, so that its log says why.
	defaultTimeout = 5 * time.Minute
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// options are the arguments.
type options struct {
	action        string
	file          string
	dryRun        bool
	reassignTo    string
	wait, timeout time.Duration
}

// run returns the exit status.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	o, err := readOptions(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return same
	case err != nil:
		fmt.Fprintf(stderr, "roles: %v\nroles: `roles -help` lists commands and flags\n", err)
		return trouble
	}
	ctx, cancel := context.WithTimeout(ctx, o.wait+o.timeout)
	defer cancel()
	changed, err := o.run(ctx, getenv, stdout, stderr)
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintln(stderr, "roles:", oneLine(line))
		}
		return trouble
	}
	if o.action == verify && changed {
		return differs
	}
	return same
}

// readOptions reads the command and its flags, in any order.
func readOptions(args []string, stderr io.Writer) (o options, err error) {
	set := flag.NewFlagSet("roles", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&o.file, "f", "", "`file` with the roles")
	set.BoolVar(&o.dryRun, "dry-run", false, "say what would change, and change nothing")
	set.StringVar(&o.reassignTo, "reassign-to", "", "down: the `role` that gets what dropped roles own, if the file names none")
	set.DurationVar(&o.wait, "wait", defaultWait, "how long to wait for a primary, and for another run to end")
	set.DurationVar(&o.timeout, "timeout", defaultTimeout, "how long the work may take")
	for len(args) > 0 {
		if !strings.HasPrefix(args[0], "-") && o.action == "" {
			o.action, args = args[0], args[1:]
			continue
		}
		if err := set.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				fmt.Fprint(stderr, usage)
				set.SetOutput(stderr)
				set.PrintDefaults()
			}
			return o, err
		}
		if args = set.Args(); len(args) > 0 && o.action != "" {
			return o, fmt.Errorf("unknown argument %s", args[0])
		}
	}
	switch {
	case !slices.Contains([]string{up, down, verify}, o.action):
		return o, errors.New("say up, down or verify")
	case o.wait <= 0 || o.timeout <= 0:
		return o, errors.New("-wait and -timeout must be more than zero")
	}
	return o, nil
}

// run does what is asked, and reports whether anything changed or differs.
func (o options) run(ctx context.Context, getenv func(string) string, stdout, stderr io.Writer) (bool, error) {
	d, err := o.declaration(getenv)
	if err != nil {
		return false, err
	}
	s, err := open(ctx, targetFrom(getenv), o.wait, stderr)
	if err != nil {
		return false, err
	}
	defer s.close()
	if o.action == down {
		return o.down(ctx, s, d, stdout)
	}
	return o.up(ctx, s, d, stdout)
}

// declaration returns the file's, or the one of the documents: a user for replication.
func (o options) declaration(getenv func(string) string) (d declaration, err error) {
	if o.file != "" {
		if d, err = readFile(o.file); err != nil {
			return d, err
		}
	} else {
		name := getenv("POSTGRES_REPLICATION_USERNAME")
		if name == "" {
			name = "replicator"
		}
		d.Roles = []role{{Name: name, Login: login, Replication: true, PasswordFrom: source{Env: "POSTGRES_REPLICATION_PASSWORD"}}}
	}
	if d.ReassignTo == "" {
		d.ReassignTo = o.reassignTo
	}
	if o.action == down {
		return d, d.checkReassign()
	}
	return d, d.resolve(getenv)
}

func (o options) up(ctx context.Context, s *session, d declaration, stdout io.Writer) (bool, error) {
	changes, err := difference(ctx, s, d)
	if err != nil {
		return false, err
	}
	if o.action == up && !o.dryRun {
		if err := apply(ctx, s, changes); err != nil {
			return false, err
		}
		if err := requireNone(ctx, s, d); err != nil {
			return false, err
		}
	}
	report(stdout, d, changes, o.tense(), "unchanged")
	return len(changes) > 0, nil
}

func difference(ctx context.Context, s *session, d declaration) ([]change, error) {
	found, err := observe(ctx, s, d)
	if err != nil {
		return nil, err
	}
	return plan(d, found)
}

// requireNone looks again: a statement may succeed and change nothing, such as a REVOKE of what another role granted.
func requireNone(ctx context.Context, s *session, d declaration) error {
	changes, err := difference(ctx, s, d)
	if err != nil || len(changes) == 0 {
		return err
	}
	return fmt.Errorf("the server did all of it, and role %s still differs (%s): something else changes it, or granted it",
		changes[0].role, changes[0].what)
}

func (o options) down(ctx context.Context, s *session, d declaration, stdout io.Writer) (bool, error) {
	found, err := observe(ctx, s, declaration{ReassignTo: d.ReassignTo, Roles: withoutGrants(d.Roles)})
	if err != nil {
		return false, err
	}
	held, err := observeHoldings(ctx, s, d)
	if err != nil {
		return false, err
	}
	plan, err := planDrop(d, found, held)
	if err != nil {
		return false, err
	}
	if !o.dryRun {
		if err := s.drop(ctx, plan); err != nil {
			return false, err
		}
	}
	report(stdout, d, plan.roles, o.tense(), "absent")
	return len(plan.roles) > 0, nil
}

func withoutGrants(roles []role) []role {
	roles = slices.Clone(roles)
	for i := range roles {
		roles[i].Grants = nil
	}
	return roles
}

// tense is what comes before each change in the report.
func (o options) tense() string {
	switch {
	case o.action == verify:
		return differing
	case o.dryRun:
		return "would be "
	}
	return ""
}
