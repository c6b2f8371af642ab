// Command demo drains a node on this machine with real parts. Auto Scaling terminates an instance and sends its event to the
// built function. The function drains the instance's node, in a real control plane, and completes the lifecycle action.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"quiesce/internal/termination"
	"quiesce/test/env"
)

const (
	group = "workers-a"
	nodes = 3
	// demoTimeout bounds the demo, whose drain takes seconds.
	demoTimeout = 3 * time.Minute
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	root, err := env.Root()
	if err != nil {
		return err
	}
	dist := filepath.Join(root, "dist", "demo")
	switch {
	case len(args) == 0:
		return withEnv(ctx, root, dist, runDemo)
	case len(args) == 1 && args[0] == "lab":
		return withEnv(ctx, root, dist, keepLab)
	case len(args) == 2 && args[0] == "invoke":
		return send(ctx, dist, args[1])
	}
	return errors.New("usage: demo [lab | invoke FILE]")
}

// withEnv starts the environment, runs do in it, and stops it.
func withEnv(ctx context.Context, root, dist string, do func(context.Context, *env.Env, string) error) (err error) {
	logf("starting a control plane, an IAM authenticator and Auto Scaling on this machine")
	s, err := env.Start(ctx, env.Options{Root: root, Bootstrap: filepath.Join(dist, "lambda")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	return do(ctx, s, dist)
}

// runDemo makes Auto Scaling terminate one of three instances.
func runDemo(ctx context.Context, s *env.Env, dist string) error {
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	instances, err := createCluster(ctx, s, nodes)
	if err != nil {
		return err
	}
	target := instances[0]
	logf("Auto Scaling terminates instance %s, node %s in %s", target.ID, target.Node, target.Zone)
	report, err := drain(ctx, s, target)
	if err != nil {
		return err
	}
	return show(report, s, target, filepath.Join(dist, "report.json"))
}

// drain sends the termination's event to the function, as Lambda would.
func drain(ctx context.Context, s *env.Env, target env.Instance) (json.RawMessage, error) {
	s.Logs = &logPrinter{out: os.Stdout}
	function, err := s.Function(context.WithoutCancel(ctx), "autoScalingGroups: ["+group+"]\nmode: drain\n")
	if err != nil {
		return nil, err
	}
	defer function.Close()
	result, err := function.Invoke(ctx, s.AWS.Terminate(target.ID)[0].Body)
	if err != nil {
		return nil, err
	}
	if result.ErrorType != "" {
		return nil, fmt.Errorf("the function ended in error %s: %s", result.ErrorType, result.ErrorMessage)
	}
	logf("the function answered after %s", result.Duration.Round(time.Millisecond))
	return result.Payload, nil
}

func show(payload json.RawMessage, s *env.Env, target env.Instance, path string) error {
	var report termination.Report
	if err := json.Unmarshal(payload, &report); err != nil {
		return fmt.Errorf("read the report: %w", err)
	}
	if err := os.WriteFile(path, payload, 0o644); err != nil {
		return err
	}
	table(os.Stdout, report)
	for _, c := range s.AWS.Completions(target.ID) {
		logf("lifecycle action completed with %s; %s", c.Result, describeState(s.AWS.State(target.ID)))
	}
	logf("the report as JSON: %s", path)
	return nil
}

func describeState(state string) string {
	if state == "" {
		return "the instance is terminated"
	}
	return "the instance is " + state
}

func logf(format string, args ...any) { fmt.Printf("demo: "+format+"\n", args...) }
