package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"quiesce/internal/doctor"
)

// defaultTimeout is for a person who waits. What a large cluster does not answer by then is said to be unread.
const defaultTimeout = 9 * time.Second

// errFindings ends the program with exitFindings.
var errFindings = errors.New("findings")

// clearLine removes what was written of the line of a terminal (ECMA-48).
const clearLine = "\033[K"

// never is the value of --fail-on with which no finding is an error.
const never = "never"

var failOn = []string{string(doctor.Warning), string(doctor.Critical), never}

type doctorOptions struct {
	*options
	failOn  string
	config  string
	timeout time.Duration
}

func newDoctor(o *options) *cobra.Command {
	d := &doctorOptions{options: o}
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Find what would go wrong when a node leaves",
		Long: "doctor looks at the cluster, its Auto Scaling groups, and quiesce itself. It says what would go wrong when a node leaves.\n" +
			"It changes nothing, and works before anything is deployed. Each finding says where, what, what it costs, and how to fix it.\n\n" +
			"Exit status: 0, or 1 if a finding has the severity of --fail-on or a worse one, or 2 if nodes or pods could not be read (with -n: pods).",
		Example: "  quiescectl doctor\n" +
			"  quiescectl doctor --context prod --profile prod -n db\n" +
			"  quiescectl doctor -o json --fail-on warning   # in CI",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return d.run(c) },
	}
	flags := command.Flags()
	flags.StringVarP(&d.namespace, "namespace", "n", "", "show what concerns this namespace only; permissions in it are enough")
	flags.StringVar(&d.failOn, "fail-on", string(doctor.Critical), "exit with status 1 from this severity on: "+strings.Join(failOn, ", "))
	flags.StringVar(&d.config, "config", "", "path of a quiesce.yaml: its groups, hook and durations are compared")
	flags.DurationVar(&d.timeout, "timeout", defaultTimeout, "how long to read")
	o.addOutput(command)
	_ = command.RegisterFlagCompletionFunc("fail-on", cobra.FixedCompletions(failOn, cobra.ShellCompDirectiveNoFileComp)) // fails only for an unknown flag
	return command
}

func (d *doctorOptions) run(c *cobra.Command) error {
	if !slices.Contains(failOn, d.failOn) {
		return fmt.Errorf("--fail-on must be one of %s, not %q", strings.Join(failOn, ", "), d.failOn)
	}
	settings, err := readSettings(d.config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), d.timeout)
	defer cancel()
	if isTerminal(c.ErrOrStderr()) {
		fmt.Fprint(c.ErrOrStderr(), "reading the cluster and its Auto Scaling groups ...\r")
	}
	snapshot, err := d.read(ctx, settings)
	if isTerminal(c.ErrOrStderr()) {
		fmt.Fprint(c.ErrOrStderr(), clearLine)
	}
	if err != nil {
		return err
	}
	report := d.aim(doctor.Examine(snapshot, d.namespace), snapshot.Region)
	if err := d.print(c.OutOrStdout(), report); err != nil {
		return err
	}
	if snapshot.Incomplete(d.namespace) {
		return errors.New("nodes or pods could not be read: the report says why")
	}
	if d.failOn != never && report.HasAtLeast(doctor.Severity(d.failOn)) {
		return errFindings
	}
	return nil
}
