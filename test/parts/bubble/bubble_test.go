package bubble

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// In a bubble of synctest.Test, the race detector crashes here in 10 of 12 runs on two cores.
func TestTest_ExpiredTimersTakenByManyGoroutines_DetectorLives(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	Test(t, func(*testing.T) {
		var taking sync.WaitGroup
		for range 8 {
			taking.Go(func() {
				for range 20_000 {
					<-time.After(0)
				}
			})
		}
		taking.Wait()
	})
	require.Equal(t, before, runtime.GOMAXPROCS(0))
}
