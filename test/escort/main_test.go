package escort

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"testing"

	"quiesce/test/lab"
	"quiesce/test/stage"
	"quiesce/test/trial"
)

var (
	// shared is the ground of all trials, or why there is none.
	shared    *trial.Ground
	sharedErr error

	trials atomic.Int32 // so far
	// turns are the trials that may go on at once: each has three machines and up to twenty busy workers.
	turns = make(chan struct{}, 2)
)

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { os.Exit(1) }) // the labs' guardians clean up behind it
	shared, sharedErr = raise(ctx)
	code := m.Run()
	if shared != nil {
		if err := shared.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "escort:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// raise brings the stage up where it can be.
func raise(ctx context.Context) (*trial.Ground, error) {
	if err := lab.MissingForMachines(); err != nil {
		return nil, err
	}
	root, err := stage.Root()
	if err != nil {
		return nil, err
	}
	s, err := stage.Start(ctx, stage.Options{Root: root, Machines: true})
	if err != nil {
		return nil, err
	}
	return trial.NewGround(s), nil
}
