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

	"quiesce/test/env/poolers"
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
	shared, sharedErr = poolers.StartNodePool(ctx)
	code := m.Run()
	if shared != nil {
		if err := shared.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "escort:", err)
			code = 1
		}
	}
	os.Exit(code)
}
