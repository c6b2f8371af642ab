package main

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/spf13/cobra"

	"quiesce/internal/termination"
)

// good are the statuses of an answer after which nobody has to do anything.
var good = []termination.Status{
	termination.StatusPlanned, termination.StatusDrained, termination.StatusSwept, termination.StatusMoved, termination.StatusRehearsed,
	termination.StatusResumed, termination.StatusChecked, termination.StatusSkipped,
}

func isBad(s termination.Status) bool { return !slices.Contains(good, s) }

// instanceID matches the ID of an instance. Names of nodes may begin with i- too
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hostname-types.html).
var instanceID = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)

// newPlan, newDrain, newSweep, newCheck, newSwitchover and newResume are the manual actions (events/README.md).
func newPlan(o *options) *cobra.Command {
	return action[termination.Report]{
		request: func(args []string) (termination.Request, error) {
			r := termination.Request{Action: termination.ActionPlan, Node: args[0]}
			if instanceID.MatchString(args[0]) {
				r.Node, r.InstanceID = "", args[0]
			}
			return r, nil
		},
		show: showReport, failed: func(r termination.Report) bool { return isBad(r.Status) },
	}.addTo(&cobra.Command{
		Use: "plan NODE|INSTANCE", Short: "Show what a drain of this node would do; changes nothing", Args: cobra.ExactArgs(1),
		Long: "plan asks the function what a drain of this node would do with each pod, and why. It changes nothing.\n" +
			"Warnings say what would make an eviction worse than need be.",
		Example: "  quiescectl plan ip-10-0-1-2.ec2.internal\n  quiescectl plan i-0123456789abcdef0 -o json",
	}, o)
}

func newDrain(o *options) *cobra.Command {
	return action[termination.Report]{
		request: func(args []string) (termination.Request, error) {
			if !instanceID.MatchString(args[0]) {
				return termination.Request{}, fmt.Errorf("drain needs the ID of an instance, such as i-0123456789abcdef0, not %q\n"+
					"it is in the providerID of the node: %s", args[0], o.aimed("kubectl get nodes -o custom-columns=NAME:.metadata.name,ID:.spec.providerID", ""))
			}
			return termination.Request{Action: termination.ActionDrain, InstanceID: args[0]}, nil
		},
		show: showReport, failed: func(r termination.Report) bool { return isBad(r.Status) },
	}.addTo(&cobra.Command{
		Use: "drain INSTANCE", Short: "Drain the node of an instance now", Args: cobra.ExactArgs(1),
		Long: "drain asks the function to drain the node of this instance, and waits for its report.\n" +
			"An instance that waits on the hook is drained as its event would do it. Any other needs allowManualDrain in quiesce.yaml.",
		Example: "  quiescectl drain i-0123456789abcdef0",
	}, o)
}

func newSweep(o *options) *cobra.Command {
	return action[termination.SweepReport]{
		request: only(termination.ActionSweep), show: showSweep,
		failed: func(r termination.SweepReport) bool { return isBad(r.Status) },
	}.addTo(&cobra.Command{
		Use: "sweep", Short: "Look at all groups now, instead of within a minute", Args: cobra.NoArgs,
		Long: "sweep asks the function to look at all groups: it keeps waiting instances alive, resends lost events, and restores nodes that\n" +
			"returned to service. It does so each minute by itself, and never drains.",
		Example: "  quiescectl sweep",
	}, o)
}

func newCheck(o *options) *cobra.Command {
	return action[termination.CheckReport]{
		request: only(termination.ActionCheck), show: showCheck,
		failed: func(r termination.CheckReport) bool { return isBad(r.Status) },
	}.addTo(&cobra.Command{
		Use: "check", Short: "Check the function's way to an eviction; changes nothing", Args: cobra.NoArgs,
		Long:    "check asks the function to go the whole way of a drain up to its first eviction, which is a dry run. It changes nothing.",
		Example: "  quiescectl check",
	}, o)
}

func newSwitchover(o *options) *cobra.Command {
	wanted := termination.Request{Action: termination.ActionSwitchover}
	command := action[termination.SwitchoverReport]{
		request: func(args []string) (termination.Request, error) {
			wanted.Cluster = args[0]
			return wanted, nil
		},
		show: showSwitchover, failed: func(r termination.SwitchoverReport) bool { return isBad(r.Status) },
	}.addTo(&cobra.Command{
		Use: "switchover NAMESPACE/CLUSTER", Short: "Move the primary of a database while its poolers hold clients", Args: cobra.ExactArgs(1),
		Long: "switchover asks the function to move the primary of this database, as it does when a node leaves: PAUSE, switchover, RESUME.\n" +
			"It is held, and nothing is moved, if anything is not as it should be. The answer says why.",
		Example: "  quiescectl switchover databases/orders --rehearse\n  quiescectl switchover databases/orders --candidate orders-1",
	}, o)
	command.Flags().StringVar(&wanted.Candidate, "candidate", "", "the member that is to lead; default the best one")
	command.Flags().BoolVar(&wanted.Rehearse, "rehearse", false, "do everything but the request: clients wait for a moment, and the primary stays")
	return command
}

func newResume(o *options) *cobra.Command {
	return action[termination.ResumeReport]{
		request: only(termination.ActionResume), show: showResume,
		failed: func(r termination.ResumeReport) bool { return isBad(r.Status) },
	}.addTo(&cobra.Command{
		Use: "resume", Short: "Resume poolers that an interrupted switchover left paused", Args: cobra.NoArgs,
		Long: "resume asks the function to resume the poolers that an interrupted switchover left paused. It does so each minute by itself.\n" +
			"A switchover that is under way is left alone. Twice does no harm.",
		Example: "  quiescectl resume",
	}, o)
}

// only returns the request of an action that names nothing.
func only(a termination.Action) func([]string) (termination.Request, error) {
	return func([]string) (termination.Request, error) { return termination.Request{Action: a}, nil }
}
