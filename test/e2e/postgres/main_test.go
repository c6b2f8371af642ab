package postgres

import (
	"context"
	"fmt"
	"os"
	"os/signal"
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
	// clusterSlots limits how many clusters run at once. A test waits for half of its time. With three, two cores are too slow for what is
	// tested: a pause of ten seconds, or a loop of Patroni.
	clusterSlots = make(chan struct{}, 2)
)

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { os.Exit(1) }) // the lab's reaper cleans up afterwards
	shared, sharedErr = start(ctx)
	code := m.Run()
	if shared != nil {
		if err := shared.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "postgres:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// start starts the environment. The function stands where a Lambda stands: it reaches the API server and pods, but no Service.
func start(ctx context.Context) (*poolers.NodePool, error) {
	pool, err := poolers.StartNodePool(ctx, "pgbouncer", "patroni", "cloudnative-pg")
	if err != nil {
		return nil, err
	}
	return pool, pool.Lab.CutServices(ctx)
}
