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
	// shared is the node pool of all tests, or the error that prevented it.
	shared    *poolers.NodePool
	sharedErr error

	testCount atomic.Int32 // so far, for names
	// workerSlots limits how many groups of five busy workers run at once. A test mostly waits.
	workerSlots = make(chan struct{}, 6)
	// slotsMutex lets one test at a time take its slots: two tests with half of their slots would wait forever.
	slotsMutex sync.Mutex
)

// acquireSlots waits for this many slots and frees them when the test ends.
func acquireSlots(t *testing.T, n int) {
	slotsMutex.Lock()
	defer slotsMutex.Unlock()
	for range n {
		workerSlots <- struct{}{}
	}
	t.Cleanup(func() {
		for range n {
			<-workerSlots
		}
	})
}

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { os.Exit(1) }) // the labs' reapers clean up afterwards
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

// startEnv starts the environment where it can run.
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
