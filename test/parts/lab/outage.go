package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// StopAPIServer kills the API server. Its clients lose it at once; what is in etcd stays. (A graceful stop would serve connected
// clients for up to a minute.)
func (l *Lab) StopAPIServer(ctx context.Context) error {
	server := l.component("kube-apiserver")
	if server == nil {
		return errors.New("stop the API server: it does not run")
	}
	if err := l.finish(ctx, server, syscall.SIGKILL); err != nil {
		return fmt.Errorf("stop the API server: %w", err)
	}
	return nil
}

// StartAPIServer starts the API server again at the same address, with these flags in addition, and returns when it is ready.
func (l *Lab) StartAPIServer(ctx context.Context, flags ...string) error {
	return l.startAPIServer(ctx, flags...)
}

// FreezeEtcd stops etcd's process, like a disk that does not answer: connections stay, and no answers come. It returns when no
// thread runs any more.
func (l *Lab) FreezeEtcd(ctx context.Context) (thaw func() error, err error) {
	etcd := l.component("etcd")
	if etcd == nil {
		return nil, errors.New("freeze etcd: it does not run")
	}
	if err := syscall.Kill(etcd.pid, syscall.SIGSTOP); err != nil {
		return nil, fmt.Errorf("freeze etcd: %w", err)
	}
	thaw = func() error { return syscall.Kill(etcd.pid, syscall.SIGCONT) }
	if err := l.await(ctx, etcd, etcd.stopped); err != nil {
		return nil, fmt.Errorf("freeze etcd: %w", errors.Join(err, thaw()))
	}
	return thaw, nil
}

// stopped returns an error while a thread of the process may still run: a signal reaches the threads at different times.
func (p *process) stopped(context.Context) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.pid))
	if err != nil {
		return err
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			return err
		}
		// The state follows the program's name, which is in parentheses (man 5 proc).
		if state := text[bytes.LastIndexByte(text, ')')+1:]; !bytes.HasPrefix(state, []byte(" T")) {
			return fmt.Errorf("%s runs: %s", thread, state)
		}
	}
	return nil
}

// component returns the process with this name; nil if none runs.
func (l *Lab) component(name string) *process {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if i := slices.IndexFunc(l.processes, func(p *process) bool { return p.name == name }); i >= 0 {
		return l.processes[i]
	}
	return nil
}
