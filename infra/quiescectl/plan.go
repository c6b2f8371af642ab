package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"quiesce/internal/config"
	"quiesce/internal/termination"
	"quiesce/internal/wire"
)

const (
	// planTimeout bounds a plan on this machine: one look at a node and its consoles, which takes seconds.
	planTimeout = time.Minute
	// regionNodes is how many nodes are read to learn the region. All have the same, and some are not of EC2.
	regionNodes = 100
)

// localPlan is the flags of a plan without a function.
type localPlan struct {
	*options
	local       bool
	config, via string
}

func newPlan(o *options) *cobra.Command {
	l := &localPlan{options: o}
	command := planAction.command(o, l.ask)
	flags := command.Flags()
	flags.BoolVar(&l.local, "local", false, "make the plan on this machine, without a function: with your kubeconfig and AWS credentials")
	flags.StringVar(&l.config, "config", "", "with --local: path of quiesce.yaml; default its defaults")
	flags.StringVar(&l.via, "connect-via", string(config.ViaPortForward), "with --local: how consoles of poolers are reached: portForward, or podIP inside the VPC")
	return command
}

// ask asks the function, or plans here.
func (l *localPlan) ask(c *cobra.Command, request termination.Request) ([]byte, error) {
	if !l.local {
		if c.Flags().Changed("config") || c.Flags().Changed("connect-via") {
			return nil, errors.New("--config and --connect-via need --local: the function has a configuration of its own")
		}
		text, err := l.askFunction(c, request)
		if errors.As(err, new(noFunctionError)) {
			err = fmt.Errorf("%w\nor plan without a function: --local", err)
		}
		return text, err
	}
	return l.askHere(c, request)
}

// needsToPlan is what a person must be allowed to do.
const needsToPlan = "read nodes, pods, their owners, Services and PodDisruptionBudgets, and Leases in namespace quiesce"

func (l *localPlan) askHere(c *cobra.Command, request termination.Request) ([]byte, error) {
	done := l.progress(c, "reading the node, its pods and their consoles ...")
	report, err := l.plan(c, request)
	done()
	if planned, is := report.(termination.Report); is && err == nil && planned.InstanceID != "" && planned.Group == "" {
		fmt.Fprintf(c.ErrOrStderr(), "warning: no Auto Scaling group of this account and region has %s: check --profile and --region\n", line(planned.InstanceID))
	}
	if err != nil {
		return nil, l.advised(err, needsToPlan, "autoscaling:Describe* and ec2:DescribeInstances")
	}
	return json.Marshal(report)
}

// plan answers as the function does: with the same use case, and the same report.
func (l *localPlan) plan(c *cobra.Command, request termination.Request) (any, error) {
	settings, err := readSettings(l.config)
	if err != nil {
		return nil, err
	}
	if err := reachConsoles(settings, l.via); err != nil {
		return nil, err
	}
	client, err := l.kube()
	if err != nil {
		return nil, err
	}
	reading, cancel := context.WithTimeout(c.Context(), planTimeout)
	defer cancel()
	region, err := l.regionOfNodes(reading)
	if err != nil {
		return nil, err
	}
	sdk, err := l.account(c.Context(), region) // it bounds itself: a person may have to log in
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.Context(), planTimeout)
	defer cancel()
	handler := wire.Parts{Settings: settings, Connect: connector(client), SDK: sdk}.Handler(slog.New(notes{out: c.ErrOrStderr()}))
	handler.Version, handler.Commit = version, commit
	payload, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	return handler.Invoke(ctx, payload)
}

// regionOfNodes returns the region of the cluster's nodes; empty: it is not known, or the flag says which.
func (o *options) regionOfNodes(ctx context.Context) (string, error) {
	if o.region != "" {
		return "", nil
	}
	access, _, err := o.connect()
	if err != nil {
		return "", err
	}
	client, err := kubernetes.NewForConfig(access)
	if err != nil {
		return "", fmt.Errorf("make a client of the cluster: %w", err)
	}
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: regionNodes})
	if err != nil {
		return "", fmt.Errorf("list nodes: %w", err)
	}
	return regionOf(list.Items), nil
}
