package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"quiesce/internal/config"
)

const (
	// pollEvery is the time between questions to AWS. Auto Scaling throttles a whole account, and a finer answer changes no result.
	pollEvery = 2 * time.Second
	// defaultImage is the image of the test pods: anything with a shell. Nodes without a route to it need another one.
	defaultImage = "public.ecr.aws/docker/library/busybox:1.37"
	// defaultMaxInstances is how large a scratch group may be. Production groups are larger, or untagged.
	defaultMaxInstances = 3
	// maxDrain is drain.maxDuration. The test pods are gone in seconds; others on the node may take minutes.
	maxDrain = "10m"
)

// settings says what to test, and how.
type settings struct {
	Group, Cluster string
	MaxInstances   int
	Image          string
	Stack          string // YAML: the section "stack" of the configuration
	Folder         string // for the configuration and the summary
	Version        string // of the checkout

	// Deploy makes the stack from a configuration, and Destroy deletes it. keepRBAC: the cluster had permissions of quiesce before.
	Deploy  func(ctx context.Context, path string) error
	Destroy func(ctx context.Context, path string, keepRBAC bool) error

	Annotations map[string]string // of the test pods; the lab's simulated kubelets read some
	Poll        time.Duration
	Out         io.Writer
}

// readSettings reads the variables that the Makefile sets. It reports all errors together.
func readSettings(getenv func(string) string) (settings, error) {
	var errs []error
	required := func(name, help string) string {
		if getenv(name) == "" {
			errs = append(errs, fmt.Errorf("smoke: %s is required: %s", name, help))
		}
		return getenv(name)
	}
	s := settings{
		Group:   required("GROUP", "the Auto Scaling group, tagged "+smokeTag+"=true"),
		Cluster: required("CLUSTER", "the EKS cluster of the group"),
		Image:   cmp.Or(getenv("IMAGE"), defaultImage), Stack: defaultStack, MaxInstances: defaultMaxInstances,
		Folder: cmp.Or(getenv("FOLDER"), "dist/smoke"), Version: cmp.Or(getenv("VERSION"), "unknown"),
		Deploy: runs(required("DEPLOY", "the command that deploys $CONFIG")), Poll: pollEvery, Out: os.Stdout,
	}
	destroy := required("DESTROY", "the command that deletes the stack of $CONFIG")
	s.Destroy = func(ctx context.Context, path string, keepRBAC bool) error {
		return runs(destroy, "KEEP_RBAC="+strconv.FormatBool(keepRBAC))(ctx, path)
	}
	if most := getenv("MAX_INSTANCES"); most != "" {
		var err error
		if s.MaxInstances, err = strconv.Atoi(most); err != nil {
			errs = append(errs, fmt.Errorf("smoke: MAX_INSTANCES must be a number, not %q", most))
		}
	}
	if file := getenv("STACK"); file != "" {
		text, err := os.ReadFile(file)
		errs = append(errs, err)
		s.Stack = string(text)
	}
	return s, errors.Join(errs...)
}

// runs returns a function that runs a shell command with the path of the configuration in CONFIG. The command has a process group
// of its own, so that Ctrl-C reaches this program only. If it must stop, it gets an interrupt.
func runs(command string, more ...string) func(context.Context, string) error {
	return func(ctx context.Context, path string) error {
		c := exec.CommandContext(ctx, "sh", "-c", command)
		// MAKEFLAGS has the variables that `make smoke` was given. A make in the command would prefer its CONFIG to this one.
		c.Env = append(append(os.Environ(), "CONFIG="+path, "MAKEFLAGS="), more...)
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGINT) }
		c.WaitDelay = commandDelay
		if err := c.Run(); err != nil {
			return fmt.Errorf("%s: %w", command, errors.Join(err, context.Cause(ctx)))
		}
		return nil
	}
}

// commandDelay is how long an interrupted command may take. CDK ends in seconds; CloudFormation goes on, and a deletion stops it.
const commandDelay = 30 * time.Second

// defaultStack fits a new account, whose concurrency quota may be ten.
const defaultStack = "stack: {reservedConcurrency: false, logRetentionDays: 1}\n"

// configuration returns the text of quiesce.yaml for this group only. Reports are read from the log: unlike a bucket of reports, it
// goes with the stack.
func (s settings) configuration() (string, error) {
	text := fmt.Sprintf("# make smoke wrote this.\ncluster: %s\nautoScalingGroups: [%q]\nmode: drain\ndrain: {maxDuration: %s}\n%s",
		s.Cluster, s.Group, maxDrain, s.Stack)
	_, err := config.Parse([]byte(text), func(string) string { return "" })
	return text, err
}

// stackName is the name of the stack and its function.
func (s settings) stackName() string { return "quiesce-" + s.Cluster }
