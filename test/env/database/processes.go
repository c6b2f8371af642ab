package database

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"quiesce/test/parts/lab"
)

// Processes are processes of one pod.
type Processes struct {
	lab  *lab.Lab
	node string
	ids  []string // in the node's namespace
}

// inPod prints the processes whose command line matches $1 and whose control group has $2 in its name, as that of a pod has its UID.
const inPod = `for id in $(pgrep --full "$1"); do grep -qs "$2" "/proc/$id/cgroup" && echo "$id"; done; true`

// FindProcesses returns the processes of a pod whose command line matches the regular expression. It is an error if there is none.
// Inside the pod itself its first process cannot be stopped, so they are found on its node.
func FindProcesses(ctx context.Context, l *lab.Lab, pod corev1.Pod, pattern string) (p Processes, err error) {
	p = Processes{lab: l, node: pod.Spec.NodeName}
	find, err := l.Inside(ctx, p.node, "sh", "-c", inPod, "sh", pattern, string(pod.UID))
	if err != nil {
		return p, err
	}
	said, err := find.Output()
	if p.ids = strings.Fields(string(said)); err == nil && len(p.ids) == 0 {
		err = fmt.Errorf("no process is called %q", pattern)
	}
	if err != nil {
		return p, fmt.Errorf("find processes of %s: %w", pod.Name, err)
	}
	return p, nil
}

// signalAll sends the signal $1 to the processes that follow. One that has ended meanwhile gets none.
const signalAll = `signal=$1; shift; for id in "$@"; do kill -s "$signal" "$id" || test ! -d "/proc/$id" || exit 1; done`

// Signal sends a signal to all of them that still run.
func (p Processes) Signal(ctx context.Context, signal string) error {
	kill, err := p.lab.Inside(ctx, p.node, append([]string{"sh", "-c", signalAll, "sh", signal}, p.ids...)...)
	if err != nil {
		return err
	}
	if said, err := kill.CombinedOutput(); err != nil {
		return fmt.Errorf("send %s to processes on %s: %w: %s", signal, p.node, err, said)
	}
	return nil
}

// Freeze stops them, and returns a function that lets them go on.
func (p Processes) Freeze(ctx context.Context) (thaw func(context.Context) error, err error) {
	return func(ctx context.Context) error { return p.Signal(ctx, "CONT") }, p.Signal(ctx, "STOP")
}
