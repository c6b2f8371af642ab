package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/kube"
	"quiesce/internal/termination"
)

const (
	// lookEvery is how often watch looks: often enough to follow, and a request for each node that drains.
	lookEvery = 2 * time.Second
	// lookTimeout bounds one look. The next one may do better.
	lookTimeout = 10 * time.Second
	// namedPods is how many pods a row names.
	namedPods = 3
	// shortestInterval keeps watch from loading the API server.
	shortestInterval = 100 * time.Millisecond
	// clearScreen clears a terminal, and goes to its first line (ECMA-48).
	clearScreen = "\033[2J\033[H"
)

// running is one node that drains, or has drained and is not gone yet.
type running struct {
	Node       string    `json:"node"`
	InstanceID string    `json:"instanceId"`
	Began      time.Time `json:"began,omitzero"`
	State      string    `json:"state"`
	ToLeave    int       `json:"toLeave"`  // pods that are still to be evicted
	Stopping   int       `json:"stopping"` // pods that are terminating
	Stay       int       `json:"stay"`     // pods that stay until the node goes
	WaitsFor   []string  `json:"waitsFor"` // the first of the pods that are still there
}

// The states of a drain.
const (
	stateStarting = "starting" // an invocation has an instance, and has closed no node yet
	stateDraining = "draining" // an invocation drains it
	stateBetween  = "between"  // no invocation holds it: the next one continues
	stateEnded    = "ended"    // no invocation holds it, pods remain, and no event continues it: a person has asked for it
	stateEmpty    = "empty"    // nothing is left to evict
)

type watchOptions struct {
	*options
	every   time.Duration
	until   bool
	timeout time.Duration // zero: none
}

func newWatch(o *options) *cobra.Command {
	w := &watchOptions{options: o}
	command := &cobra.Command{
		Use: "watch", Short: "Follow the drains that run", Args: cobra.NoArgs,
		Long: "watch shows which nodes drain now, and which pods they still wait for. It reads the Leases of quiesce and the pods of these nodes,\n" +
			"and needs a kubeconfig only. On a terminal it redraws; elsewhere it prints each change.",
		Example: "  quiescectl watch\n  quiescectl watch --until-done --timeout 1h",
		RunE:    func(c *cobra.Command, _ []string) error { return w.run(c) },
	}
	o.addOutput(command)
	command.Flags().DurationVar(&w.every, "interval", lookEvery, "how often to look")
	command.Flags().BoolVar(&w.until, "until-done", false, "end when no node drains any more")
	command.Flags().DurationVar(&w.timeout, "timeout", 0, "end after this time; with --until-done that is an error; default never")
	return command
}

func (w *watchOptions) run(c *cobra.Command) error {
	if w.every < shortestInterval {
		return fmt.Errorf("--interval must be at least %s, not %s", shortestInterval, w.every)
	}
	access, _, err := w.connect()
	if err != nil {
		return err
	}
	r, err := newReader(w.options, access)
	if err != nil {
		return err
	}
	ctx := c.Context()
	if w.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.timeout)
		defer cancel()
	}
	for last := "none"; ; {
		drains, err := r.drains(ctx)
		switch {
		case ctx.Err() != nil:
			return w.interrupted()
		case err != nil && last == "none":
			return w.advised(err, "list leases in namespace quiesce, and pods", "")
		case err != nil:
			fmt.Fprintln(c.ErrOrStderr(), "looking again:", oneLine(err))
		default:
			if last, err = w.printChange(c.OutOrStdout(), drains, last); err != nil {
				return err
			}
			if w.until && areDone(drains) {
				return checkRemaining(drains)
			}
		}
		select {
		case <-ctx.Done():
			return w.interrupted()
		case <-time.After(w.every):
		}
	}
}

// interrupted returns how a watch ends that was interrupted, or whose time is over. A person has seen enough. A script must not go on as if the drains had ended.
func (w *watchOptions) interrupted() error {
	if w.until {
		return errors.New("ended before all drains had ended")
	}
	return nil
}

func areDone(drains []running) bool {
	return !slices.ContainsFunc(drains, func(d running) bool { return d.State != stateEmpty && d.State != stateEnded })
}

// checkRemaining returns errFindings if a drain has ended though pods remain. A script must not go on as if they were gone.
func checkRemaining(drains []running) error {
	if slices.ContainsFunc(drains, func(d running) bool { return d.State == stateEnded }) {
		return errFindings
	}
	return nil
}

// starting returns the instance of a Lease that an invocation holds, if it has closed no node yet. Other Leases are of escorts.
func starting(lease termination.LeaseInfo) (d running, is bool) {
	is = lease.Held && len(lease.Closed) == 0 && strings.HasPrefix(lease.Name, "i-")
	return running{InstanceID: lease.Name, State: stateStarting, WaitsFor: []string{}}, is
}

// printChange prints the drains unless they are as they were printed last.
func (w *watchOptions) printChange(out io.Writer, drains []running, last string) (string, error) {
	text, err := json.Marshal(drains)
	if err != nil || string(text) == last {
		return last, err
	}
	if isTerminal(out) {
		fmt.Fprint(out, clearScreen)
	}
	return string(text), write(out, w.output, text, func(b io.Writer) { showDrains(b, drains) })
}

func showDrains(out io.Writer, drains []running) {
	if len(drains) == 0 {
		fmt.Fprintln(out, "no node drains")
		return
	}
	rows := [][]string{{"NODE", "INSTANCE", "SINCE", "STATE", "TO LEAVE", "STOPPING", "STAY", "WAITS FOR"}}
	for _, d := range drains {
		rows = append(rows, []string{
			orNone(d.Node), d.InstanceID, clock(d.Began), d.State, fmt.Sprint(d.ToLeave), fmt.Sprint(d.Stopping), fmt.Sprint(d.Stay),
			orNone(strings.Join(d.WaitsFor, ", ")),
		})
	}
	columns(out, rows)
}

// drains returns the nodes that the Leases of instances say are closed.
func (r *reader) drains(ctx context.Context) (all []running, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	leases, err := r.kube.Leases(ctx)
	if err != nil {
		return nil, err
	}
	all = []running{}
	for _, lease := range leases {
		if d, is := starting(lease); is {
			all = append(all, d)
		}
		for _, node := range lease.Closed {
			d, err := r.drainOf(ctx, lease, node)
			if err != nil {
				return nil, err
			}
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b running) int {
		return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.Node, b.Node), cmp.Compare(a.InstanceID, b.InstanceID))
	})
	return all, nil
}

func (r *reader) drainOf(ctx context.Context, lease termination.LeaseInfo, node termination.ClosedNode) (running, error) {
	d := running{Node: node.Name, InstanceID: lease.Name, Began: node.Began, WaitsFor: []string{}}
	pods, err := r.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node.Name})
	if err != nil {
		return d, fmt.Errorf("list the pods of node %s: %w", node.Name, err)
	}
	for i := range pods.Items {
		pod := kube.ToEscortPod(&pods.Items[i]).Pod
		switch drain.Decide(pod, drain.Node{}).Verdict {
		case drain.Skip:
			d.Stay++
			continue
		case drain.Wait:
			d.Stopping++
		default:
			d.ToLeave++
		}
		if len(d.WaitsFor) < namedPods {
			d.WaitsFor = append(d.WaitsFor, pod.String())
		}
	}
	d.State = stateOf(lease.Held, d.ToLeave+d.Stopping, node)
	return d, nil
}

// stateOf returns the state of a drain whose node has so many pods that are to leave.
func stateOf(held bool, remain int, node termination.ClosedNode) string {
	switch {
	case held:
		return stateDraining
	case remain == 0:
		return stateEmpty
	case node.Hook == "" && node.Trigger == "":
		return stateEnded
	}
	return stateBetween
}
