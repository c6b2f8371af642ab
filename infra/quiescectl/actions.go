package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"quiesce/internal/termination"
)

// good are the statuses of an answer after which nothing is left to do, by action.
var good = map[termination.Action]termination.Status{
	termination.ActionPlan: termination.StatusPlanned, termination.ActionDrain: termination.StatusDrained, termination.ActionSweep: termination.StatusSwept,
	termination.ActionCheck: termination.StatusChecked, termination.ActionResume: termination.StatusResumed,
	termination.ActionSwitchover: termination.StatusMoved,
}

// isBad reports whether an answer needs attention. A drain that another invocation does, or that shadow mode only planned, is not done: a
// script must not go on as if the pods were gone.
func isBad(a termination.Action, s termination.Status) bool {
	return s != good[a] && (a != termination.ActionSwitchover || s != termination.StatusRehearsed)
}

// instanceID matches the ID of an instance. Names of nodes may begin with i- too
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hostname-types.html).
var instanceID = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)

// The actions that people ask the function for (events/README.md). A plan can do without it: plan.go.
var (
	planAction = action{
		Action: termination.ActionPlan, use: "plan NODE|INSTANCE", short: "Show what a drain of this node would do; changes nothing",
		long: "plan asks the function what a drain of this node would do with each pod, and why. It changes nothing.\n" +
			"Warnings say what would make an eviction worse than need be.\n\n" +
			"With --local there need be no function. The plan is made here, with your kubeconfig and your AWS credentials.",
		example: "  quiescectl plan ip-10-0-1-2.ec2.internal\n  quiescectl plan i-0123456789abcdef0 -o json\n" +
			"  quiescectl plan ip-10-0-1-2.ec2.internal --local --config quiesce.yaml",
		argument: func(r *termination.Request, o *options, name string) error {
			if r.Node = name; instanceID.MatchString(name) {
				r.Node, r.InstanceID = "", name
			}
			return nil
		},
		show: shown(showReport),
	}
	otherActions = []action{
		{
			Action: termination.ActionDrain, use: "drain INSTANCE", short: "Drain the node of an instance now",
			long: "drain asks the function to drain the node of this instance, and waits for its report.\n" +
				"An instance that waits on the hook is drained as its event would do it. Any other needs allowManualDrain in quiesce.yaml.",
			example: "  quiescectl drain i-0123456789abcdef0", argument: drainArgument, show: shown(showReport),
		},
		{
			Action: termination.ActionSweep, use: "sweep", short: "Look at all groups now, instead of within a minute",
			long: "sweep asks the function to look at all groups: it keeps waiting instances alive, resends lost events, and restores nodes that\n" +
				"returned to service. It does so each minute by itself, and never drains.",
			example: "  quiescectl sweep", show: shown(showSweep),
		},
		{
			Action: termination.ActionCheck, use: "check", short: "Test each step of a drain, with a dry-run eviction; changes nothing",
			long:    "check asks the function to run each step of a drain up to its first eviction, which is a dry run. It changes nothing.",
			example: "  quiescectl check", show: shown(showCheck),
		},
		{
			Action: termination.ActionSwitchover, use: "switchover NAMESPACE/CLUSTER", short: "Move the primary of a database while its poolers hold clients",
			long: "switchover asks the function to move the primary of this database, as it does when a node leaves: PAUSE, switchover, RESUME.\n" +
				"It is held, and nothing is moved, if anything is not as it should be. The answer says why.",
			example:  "  quiescectl switchover databases/orders --rehearse\n  quiescectl switchover databases/orders --candidate orders-1",
			argument: switchoverArgument, flags: switchoverFlags, show: shown(showSwitchover),
		},
	}
	// resumeAction is for resume --function.
	resumeAction = action{Action: termination.ActionResume, show: shown(showResume)}
)

func drainArgument(r *termination.Request, o *options, name string) error {
	if !instanceID.MatchString(name) {
		return fmt.Errorf("drain needs the ID of an instance, such as i-0123456789abcdef0, not %q\n"+
			"it is in the providerID of the node: %s", name, o.aimed("kubectl get nodes -o custom-columns=NAME:.metadata.name,ID:.spec.providerID", ""))
	}
	r.InstanceID = name
	return nil
}

func switchoverArgument(r *termination.Request, _ *options, name string) error {
	if namespace, cluster, is := strings.Cut(name, "/"); !is || namespace == "" || cluster == "" {
		return errors.New("switchover needs a database as NAMESPACE/CLUSTER, such as databases/orders, not " + fmt.Sprintf("%q", name))
	}
	r.Cluster = name
	return nil
}

func switchoverFlags(flags *pflag.FlagSet, r *termination.Request) {
	flags.StringVar(&r.Candidate, "candidate", "", "the member that is to lead; default the best one")
	flags.BoolVar(&r.Rehearse, "rehearse", false, "do everything but the request: clients wait for a moment, and the primary stays")
}

// newActions returns the commands that only the function can do.
func newActions(o *options) (commands []*cobra.Command) {
	for _, a := range otherActions {
		commands = append(commands, a.command(o, o.askFunction))
	}
	return commands
}
