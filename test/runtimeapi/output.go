package runtimeapi

import (
	"bytes"
	"io"
	"sync"
)

// output keeps what is written to it and passes it on, from several writers at once.
type output struct {
	mu   sync.Mutex
	all  bytes.Buffer
	copy io.Writer // may be nil
}

// Write never fails: a process must not be disturbed by whoever reads along.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.copy != nil {
		_, _ = o.copy.Write(b)
	}
	return o.all.Write(b)
}

// String is all that was written so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}
