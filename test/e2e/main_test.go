package e2e

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

// shared is the shared environment, or the error that prevented it.
var (
	shared    *env.Env
	sharedErr error
)

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { os.Exit(1) }) // the labs' reapers clean up afterwards
	shared, sharedErr = startEnv(ctx, false)
	code := m.Run()
	envs := slices.DeleteFunc([]*env.Env{shared, machines.env}, func(s *env.Env) bool { return s == nil })
	if err := audit(envs...); err != nil && code == 0 && len(envs) > 0 {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	for _, s := range envs {
		if err := s.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func startEnv(ctx context.Context, machines bool) (*env.Env, error) {
	root, err := env.Root()
	if err != nil {
		return nil, err
	}
	return env.Start(ctx, env.Options{Root: root, Machines: machines})
}

// sharedEnv returns the shared environment. On a machine that lacks a part, the test is skipped, or fails in CI.
func sharedEnv(t *testing.T) *env.Env {
	t.Helper()
	lab.Require(t)
	require.NoError(t, sharedErr)
	t.Parallel()
	return shared
}
