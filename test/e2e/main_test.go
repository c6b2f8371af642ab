package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/test/lab"
	"quiesce/test/stage"
)

// shared is the stage, or why there is none.
var (
	shared    *stage.Stage
	sharedErr error
)

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	folder, err := os.MkdirTemp("", "quiesce-e2e-")
	if err == nil {
		shared, err = raise(ctx, folder)
	}
	sharedErr = err
	code := m.Run()
	if shared != nil {
		err = errors.Join(shared.Stop(), os.RemoveAll(folder))
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func raise(ctx context.Context, folder string) (*stage.Stage, error) {
	root, err := stage.Root()
	if err != nil {
		return nil, err
	}
	bootstrap := filepath.Join(folder, "bootstrap")
	if err := stage.Build(ctx, root, bootstrap); err != nil {
		return nil, err
	}
	return stage.Start(ctx, bootstrap, filepath.Join(root, "infra", "rbac.yaml"))
}

// play is the shared stage; a machine that lacks a part skips the test, CI fails it.
func play(t *testing.T) *stage.Stage {
	t.Helper()
	lab.Require(t)
	require.NoError(t, sharedErr)
	t.Parallel()
	return shared
}
