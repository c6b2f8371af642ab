package lab

import (
	"context"
	"fmt"
	"slices"
	"syscall"
)

// StopAPIServer ends the API server in order, as an upgrade of a control plane does. Whoever is at work in the cluster then finds
// nobody there; what is on etcd stays.
func (l *Lab) StopAPIServer(ctx context.Context) error {
	server := l.component("kube-apiserver")
	if server == nil {
		return fmt.Errorf("stop the API server: it does not run")
	}
	if err := l.finish(ctx, server, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the API server: %w", err)
	}
	return nil
}

// StartAPIServer starts it again, where it was, and returns when it is ready.
func (l *Lab) StartAPIServer(ctx context.Context) error { return l.startAPIServer(ctx) }

// FreezeEtcd has etcd stand still, as on a machine whose disk does not answer: connections stay, and no answer comes.
func (l *Lab) FreezeEtcd() (thaw func() error, err error) {
	etcd := l.component("etcd")
	if etcd == nil {
		return nil, fmt.Errorf("freeze etcd: it does not run")
	}
	if err := syscall.Kill(etcd.pid, syscall.SIGSTOP); err != nil {
		return nil, fmt.Errorf("freeze etcd: %w", err)
	}
	return func() error { return syscall.Kill(etcd.pid, syscall.SIGCONT) }, nil
}

// component is the process of this name; nil if none runs.
func (l *Lab) component(name string) *process {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if i := slices.IndexFunc(l.processes, func(p *process) bool { return p.name == name }); i >= 0 {
		return l.processes[i]
	}
	return nil
}
