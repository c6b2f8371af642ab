package patroni

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"quiesce/test/env/database"
)

// Regular expressions of the processes of a member.
const (
	PatroniProcess = "patroni /etc/patroni/patroni.yaml"
	WALReceiver    = "postgres: .*walreceiver"
	AllProcesses   = "patroni|postgres"
)

// Processes returns the processes of a member that match.
func (c *Cluster) Processes(ctx context.Context, member, pattern string) (database.Processes, error) {
	pod, err := c.Member(ctx, member)
	if err != nil {
		return database.Processes{}, err
	}
	return database.FindProcesses(ctx, c.lab, pod, pattern)
}

// restCut closes each connection of a member to the REST API of another, on the node of the first.
const restCut = `table inet %s {
	chain forward {
		type filter hook forward priority filter;
		ip daddr %s tcp dport 8008 reject with tcp reset
	}
}`

// CutREST keeps a member from reaching the REST API of another. Others still reach both.
func (c *Cluster) CutREST(ctx context.Context, from, to string) (mend func(context.Context) error, err error) {
	source, err := c.Member(ctx, from)
	if err != nil {
		return nil, err
	}
	target, err := c.Member(ctx, to)
	if err != nil {
		return nil, err
	}
	const table = "cut"
	mend = func(ctx context.Context) error { return c.filter(ctx, source, "delete table inet "+table) }
	return mend, c.filter(ctx, source, fmt.Sprintf(restCut, table, target.Status.PodIP))
}

// filter changes the packet filter of a pod's node.
func (c *Cluster) filter(ctx context.Context, pod corev1.Pod, rules string) error {
	nft, err := c.lab.Inside(ctx, pod.Spec.NodeName, "nft", "--file", "-")
	if err != nil {
		return err
	}
	nft.Stdin = strings.NewReader(rules)
	if said, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("change the packet filter of %s: %w: %s", pod.Spec.NodeName, err, said)
	}
	return nil
}

// Control runs patronictl in a member, and returns what it prints.
func (c *Cluster) Control(ctx context.Context, member string, arguments ...string) (string, error) {
	said, err := c.lab.Kubectl(ctx, append([]string{"--namespace", c.options.Namespace, "exec", member, "--",
		"patronictl", "-c", "/etc/patroni/patroni.yaml"}, arguments...)...)
	if err != nil {
		return said, fmt.Errorf("patronictl %s: %w", strings.Join(arguments, " "), err)
	}
	return said, nil
}

// RenewTime returns when the leader last renewed its key, as it writes it.
func (c *Cluster) RenewTime(ctx context.Context) (string, error) {
	annotations, err := c.leaderAnnotations(ctx)
	return annotations["renewTime"], err
}

// Transitions returns how often the leader has changed, as Patroni counts it.
func (c *Cluster) Transitions(ctx context.Context) (int, error) {
	annotations, err := c.leaderAnnotations(ctx)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(annotations["transitions"])
}
