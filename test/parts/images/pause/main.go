// Command pause is the sandbox of the lab's pods: it keeps a pod's namespaces alive until it is signaled and, as process 1 of a
// shared process namespace, reaps orphans.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		reap() // also before the first wait: some children may have ended already
		select {
		case <-signals:
			return
		case <-children:
		}
	}
}

// reap takes the status of all ended children: several signals may arrive as one.
func reap() {
	for {
		if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 && err != syscall.EINTR {
			return
		}
	}
}
