//go:build race

package bubble

import (
	"runtime"
	"sync"
)

// threads is the limit while bubbles run, in tests that run beside each other.
var threads struct {
	sync.Mutex
	bubbles, before int
}

func limit() (restore func()) {
	threads.Lock()
	defer threads.Unlock()
	if threads.bubbles++; threads.bubbles == 1 {
		threads.before = runtime.GOMAXPROCS(1)
	}
	return func() {
		threads.Lock()
		defer threads.Unlock()
		if threads.bubbles--; threads.bubbles == 0 {
			runtime.GOMAXPROCS(threads.before)
		}
	}
}
