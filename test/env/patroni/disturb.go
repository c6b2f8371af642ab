package patroni

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
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

// requestsHeld drops each packet to the REST API of a member that begins a POST, behind a TCP header of 32 bytes, as Linux has it. Other
// requests, and connections, go through.
const requestsHeld = `table inet %s {
	chain forward {
		type filter hook forward priority filter;
		ip daddr %s tcp dport 8008 tcp doff 8 @th,256,32 0x504f5354 drop
	}
}`

// HoldRequests holds each POST to the REST API of a member up until it is released. The sender's kernel sends it again and again.
func (c *Cluster) HoldRequests(ctx context.Context, member string) (release func(context.Context) error, err error) {
	pod, err := c.Member(ctx, member)
	if err != nil {
		return nil, err
	}
	const table = "held"
	release = func(ctx context.Context) error { return c.filter(ctx, pod, "delete table inet "+table) }
	return release, c.filter(ctx, pod, fmt.Sprintf(requestsHeld, table, pod.Status.PodIP))
}

// UnsentTo returns how many bytes this host, where functions run, has sent to the REST API of a member that have not arrived. Closed
// connections count: the kernel goes on sending.
func (c *Cluster) UnsentTo(ctx context.Context, member string) (bytes int64, err error) {
	pod, err := c.Member(ctx, member)
	if err != nil {
		return 0, err
	}
	table, err := os.ReadFile("/proc/thread-self/net/tcp")
	if err != nil {
		return 0, fmt.Errorf("read the host's connections: %w", err)
	}
	return unsentTo(string(table), netip.AddrPortFrom(netip.MustParseAddr(pod.Status.PodIP), 8008))
}

// unsentTo adds up the lengths of the send queues to an address, of a table as in proc(5): its columns are the number of the line, the local
// address, the remote one, the state, and the lengths of the two queues. Addresses are in the machine's order of bytes.
func unsentTo(table string, to netip.AddrPort) (bytes int64, err error) {
	address := to.Addr().As4()
	remote := fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(address[:]), to.Port())
	for line := range strings.Lines(table) {
		columns := strings.Fields(line)
		if len(columns) < 5 || columns[2] != remote {
			continue
		}
		sending, _, _ := strings.Cut(columns[4], ":")
		n, err := strconv.ParseInt(sending, 16, 64)
		if err != nil {
			return 0, fmt.Errorf("read the host's connections: %w", err)
		}
		bytes += n
	}
	return bytes, nil
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
