package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// logTimeout is how long a message may take. The container runtime reads the log all the time; a hook that waits for a stuck one would lose
// the time of open transactions.
const logTimeout = time.Second

// openPodLog opens what process 1 prints to. In a shared process namespace, that process is the pod's sandbox, whose output is not kept.
func openPodLog(path string) (*os.File, error) {
	if target, err := os.Readlink(path); err == nil && target == os.DevNull {
		return nil, fmt.Errorf("open %s: it is %s: with shareProcessNamespace, set --log to the output of pgbouncer's own process", path, os.DevNull)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%w: let the container's processes run as one user", err)
	}
	return file, err
}

// podWriter writes to the pod's log, and never fails nor blocks: what cannot be written there is on stderr.
type podWriter struct{ *os.File }

func (w podWriter) Write(text []byte) (int, error) {
	_ = w.SetWriteDeadline(time.Now().Add(logTimeout)) // a file has none, and needs none
	_, _ = w.File.Write(text)
	return len(text), nil
}
