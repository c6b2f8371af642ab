package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// readyFile is the number of the file that a watcher closes when PostgreSQL may stop. The callback waits for its end.
const readyFile = 3

// startWatcher starts a watcher, and waits until PostgreSQL may stop, but no longer than wait. Patroni kills a callback with its children.
// So there is a process in between, which ends at once, and the watcher is not one of them.
func startWatcher(event string, flags []string, wait time.Duration) error {
	reader, writer, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the watcher: %w", err)
	}
	defer reader.Close()
	between, err := again(detach, event, flags, writer)
	writer.Close()
	if err != nil {
		return err
	}
	if err := between.Wait(); err != nil {
		return fmt.Errorf("start the watcher: %w", err)
	}
	if err := reader.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return fmt.Errorf("wait for the watcher: %w", err)
	}
	_, _ = reader.Read(make([]byte, 1)) // its end, or the deadline
	return nil
}

// again starts this program in a session of its own. Its output goes where Patroni's goes.
func again(mode, event string, flags []string, ready *os.File) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start the watcher: %w", err)
	}
	command := exec.Command(self, append([]string{mode, event}, flags...)...)
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	command.ExtraFiles = []*os.File{ready}
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start the watcher: %w", err)
	}
	return command, nil
}
