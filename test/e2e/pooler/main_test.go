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
	"quiesce/test/env/poolers"
	"quiesce/test/parts/lab"
)

var (
	// shared is the ground of all trials, or why there is none.
	shared    *poolers.NodePool
	sharedErr error

	testCount atomic.Int32 // so far
	// workerSlots is for the trials that may go on at once, in crews of five busy workers. Most of what a trial takes is waiting.
	workerSlots = make(chan struct{}, 6)
	// slotsMutex is held by who takes room: two that have half of what they need would wait for ever.
	slotsMutex sync.Mutex
)

// acquireSlots waits for room for the crews, and leaves it when the test ends.
func acquireSlots(t *testing.T, crews int) {
	slotsMutex.Lock()
	defer slotsMutex.Unlock()
	for range crews {
		workerSlots <- struct{}{}
	}
	t.Cleanup(func() {
		for range crews {
			<-workerSlots
		}
	})
}

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { os.Exit(1) }) // the labs' guardians clean up behind it
	shared, sharedErr = startEnv(ctx)
	code := m.Run()
	if shared != nil {
		if err := shared.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "escort:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// startEnv brings the stage up where it can be.
func startEnv(ctx context.Context) (*poolers.NodePool, error) {
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
	return poolers.NewNodePool(s), nil
}
