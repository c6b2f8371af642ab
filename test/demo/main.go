// Command demo runs the main job on this machine with real parts: Auto Scaling terminates an instance, its event goes to the
// built function, and the function drains the instance's node of a real control plane and lets the instance go.
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
	// lastWord bounds the demo: a drain of it takes seconds.
	lastWord = 3 * time.Minute
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
		return onStage(ctx, root, dist, demonstrate)
	case len(args) == 1 && args[0] == "lab":
		return onStage(ctx, root, dist, keepLab)
	case len(args) == 2 && args[0] == "invoke":
		return send(ctx, dist, args[1])
	}
	return errors.New("usage: demo [lab | invoke FILE]")
}

// onStage brings the real parts up for what is played on them.
func onStage(ctx context.Context, root, dist string, play func(context.Context, *env.Env, string) error) (err error) {
	say("starting a control plane, an IAM authenticator and Auto Scaling on this machine")
	s, err := env.Start(ctx, env.Options{Root: root, Bootstrap: filepath.Join(dist, "bootstrap")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	return play(ctx, s, dist)
}

// demonstrate has Auto Scaling terminate one of three instances.
func demonstrate(ctx context.Context, s *env.Env, dist string) error {
	ctx, cancel := context.WithTimeout(ctx, lastWord)
	defer cancel()
	instances, err := furnish(ctx, s, nodes)
	if err != nil {
		return err
	}
	victim := instances[0]
	say("Auto Scaling terminates %s, which is node %s in %s", victim.ID, victim.Node, victim.Zone)
	report, err := drain(ctx, s, victim)
	if err != nil {
		return err
	}
	return show(report, s, victim, filepath.Join(dist, "report.json"))
}

// drain sends the termination's event to the function, as Lambda would.
func drain(ctx context.Context, s *env.Env, victim env.Instance) (json.RawMessage, error) {
	s.Logs = &narrator{out: os.Stdout}
	function, err := s.Function(context.WithoutCancel(ctx), "autoScalingGroups: ["+group+"]\nmode: drain\n")
	if err != nil {
		return nil, err
	}
	defer function.Close()
	result, err := function.Invoke(ctx, s.AWS.Terminate(victim.ID)[0].Body)
	if err != nil {
		return nil, err
	}
	if result.ErrorType != "" {
		return nil, fmt.Errorf("the function ended in error %s: %s", result.ErrorType, result.ErrorMessage)
	}
	say("the function answered after %s", result.Duration.Round(time.Millisecond))
	return result.Payload, nil
}

func show(payload json.RawMessage, s *env.Env, victim env.Instance, path string) error {
	var report termination.Report
	if err := json.Unmarshal(payload, &report); err != nil {
		return fmt.Errorf("read the report: %w", err)
	}
	if err := os.WriteFile(path, payload, 0o644); err != nil {
		return err
	}
	table(os.Stdout, report)
	for _, c := range s.AWS.Completions(victim.ID) {
		say("Auto Scaling was told %s; %s", c.Result, fate(s.AWS.State(victim.ID)))
	}
	say("the report as JSON: %s", path)
	return nil
}

func fate(state string) string {
	if state == "" {
		return "the instance is gone"
	}
	return "the instance is " + state
}

func say(format string, args ...any) { fmt.Printf("demo: "+format+"\n", args...) }
