package oneproc

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Without this package, the race detector crashes here in 10 of 12 runs on two cores.
func TestBubble_ExpiredTimersTakenByManyGoroutines_DetectorLives(t *testing.T) {
	synctest.Test(t, func(*testing.T) {
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
}
