// Package bubble runs tests in bubbles of testing/synctest. With the race detector, Go code runs on one thread at a time meanwhile: the
// detector crashes if two goroutines of a bubble take expired timers at once (https://github.com/golang/go/issues/78156, open for Go 1.26).
// Races are found all the same: the detector compares what synchronizes, not what happens at the same moment.
package bubble

import (
	"testing"
	"testing/synctest"
)

// Test is synctest.Test.
func Test(t *testing.T, f func(*testing.T)) {
	t.Helper()
	defer limit()()
	synctest.Test(t, f)
}
