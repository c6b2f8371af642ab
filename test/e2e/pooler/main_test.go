package pooler

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"quiesce/test/env"
	"quiesce/test/env/pooltest"
	"quiesce/test/parts/lab"
)

var (
	// shared is the ground of all trials, or why there is none.
	shared    *pooltest.Ground
	sharedErr error

	trials atomic.Int32 // so far
	// room is for the trials that may go on at once, in crews of five busy workers. Most of what a trial takes is waiting.
	room = make(chan struct{}, 6)
	// entering is held by who takes room: two that have half of what they need would wait for ever.
	entering sync.Mutex
)

// enter waits for room for the crews, and leaves it when the test ends.
func enter(t *testing.T, crews int) {
	entering.Lock()
	defer entering.Unlock()
	for range crews {
		room <- struct{}{}
	}
	t.Cleanup(func() {
		for range crews {
			<-room
		}
	})
}

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
func raise(ctx context.Context) (*pooltest.Ground, error) {
	if err := lab.MissingForMachines(); err != nil {
		return nil, err
	}
	root, err := env.Root()
	if err != nil {
		return nil, err
	}
	s, err := env.Start(ctx, env.Options{Root: root, Machines: true})
	if err != nil {
		return nil, err
	}
	return pooltest.NewGround(s), nil
}
