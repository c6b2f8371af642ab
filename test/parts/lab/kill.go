package lab

import (
	"context"
	"fmt"
	"os/exec"
	"syscall"
)

// Kill makes a machine vanish like a terminated instance: at once nothing runs, sends or answers any more, without FIN or RST.
// Its Node object stays, as in a cluster until a controller notices.
func (l *Lab) Kill(ctx context.Context, node string) error {
	m, err := l.machine(node)
	if err != nil {
		return err
	}
	if err := l.network.cut(ctx, m.number); err != nil {
		return fmt.Errorf("disconnect machine %s: %w", node, err)
	}
	if err := l.finish(ctx, m.process, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill machine %s: %w", node, err)
	}
	if l.storage != nil {
		l.storage.Forget(node)
	}
	return nil
}

// HostIP returns the address that machines see of the host and of all traffic from it.
func (l *Lab) HostIP() string { return l.host() }

func (l *Lab) machine(node string) (*machine, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	for _, m := range l.machines {
		if m.node.Name == node {
			return m, nil
		}
	}
	return nil, fmt.Errorf("no machine is node %s", node)
}

// Inside returns a command that runs in the machine's namespaces, as if started on the machine.
func (l *Lab) Inside(ctx context.Context, node string, args ...string) (*exec.Cmd, error) {
	m, err := l.machine(node)
	if err != nil {
		return nil, err
	}
	return m.command(ctx, args...), nil
}

// command enters the namespaces of the machine's first process, the child of the process that made them.
func (m *machine) command(ctx context.Context, args ...string) *exec.Cmd {
	target := fmt.Sprintf("--target=%d", m.process.pid)
	enter := []string{target, "--net", "--mount", "--ipc", "--uts", fmt.Sprintf("--pid=/proc/%d/ns/pid_for_children", m.process.pid), "--"}
	return exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
}
