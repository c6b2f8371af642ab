// Command pause is the sandbox of the lab's pods: it keeps a pod's namespaces alive until it is told to stop and, as
// process 1 where a pod shares its process namespace, reaps whatever others leave behind.
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
		reap() // before the first wait too: some may have ended while nobody was listening
		select {
		case <-signals:
			return
		case <-children:
		}
	}
}

// reap takes the status of every child that has ended; signals of several come as one.
func reap() {
	for {
		if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 && err != syscall.EINTR {
			return
		}
	}
}
