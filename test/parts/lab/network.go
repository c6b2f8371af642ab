package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
)

// The addresses of a lab with machines: 10.x.0.0/16, where x is free on this host. Pods have the first half, 64 addresses per
// machine; 10.x.128.0/24 is the network between the machines, whose first address is the host's; Services have the last quarter.
// No address is used twice: others may still know its previous user.
const (
	firstNetwork = 200
	lastNetwork  = 249
	// maxMachines is the capacity of the network between the machines. Each machine has routes to the pods of all others from the
	// start.
	maxMachines  = 250
	podsAMachine = 64
)

// network connects the machines of a lab: a bridge in its own network namespace, with a veth pair to the host and to each
// machine. The host's packet filters do not see its traffic, and it ends with the process that holds the namespace.
type network struct {
	number int
	pid    int // of the process that holds the namespace
}

func (n *network) host() string       { return n.machine(0) }
func (n *network) pods() string       { return fmt.Sprintf("10.%d.0.0/17", n.number) }
func (n *network) services() string   { return fmt.Sprintf("10.%d.192.0/18", n.number) }
func (n *network) kubernetes() string { return fmt.Sprintf("10.%d.192.1", n.number) }
func (n *network) cable() string      { return fmt.Sprintf("quiesce%d", n.number) }

// machine returns the address of the machine with this number; the first is 1.
func (n *network) machine(number int) string { return fmt.Sprintf("10.%d.128.%d", n.number, number+1) }

func (n *network) podsOf(number int) string {
	first := number * podsAMachine
	return fmt.Sprintf("10.%d.%d.%d/26", n.number, first/256, first%256)
}

// prepareNetwork finds free addresses and connects the host.
func (l *Lab) prepareNetwork(ctx context.Context) error {
	holder, err := l.spawn("switch", l.program(context.Background(), "unshare", "--net", "sleep", "infinity"))
	if err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if err := l.await(ctx, holder, isolated(holder.pid)); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	l.network = &network{pid: holder.pid}
	if err := l.network.connectHost(ctx); err != nil {
		return fmt.Errorf("make a network for the machines: %w", err)
	}
	return nil
}

// isolated returns a readiness check: the process has entered its own network namespace.
func isolated(pid int) func(context.Context) error {
	return func(context.Context) error {
		ours, err := os.Readlink("/proc/self/ns/net")
		if err != nil {
			return err
		}
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil && its == ours {
			err = errors.New("it is still in the host's network namespace")
		}
		return err
	}
}

// connectHost takes the first network whose link name is free: creating the link reserves the number.
func (n *network) connectHost(ctx context.Context) error {
	if err := n.inside(ctx, "ip", "link", "add", "bridge0", "type", "bridge"); err != nil {
		return err
	}
	if err := n.inside(ctx, "ip", "link", "set", "bridge0", "up"); err != nil {
		return err
	}
	var last error
	for n.number = firstNetwork; n.number <= lastNetwork; n.number++ {
		if last = n.layHostCable(ctx); last == nil {
			return n.routeHost(ctx)
		}
	}
	return fmt.Errorf("no free network from 10.%d.0.0/16 to 10.%d.0.0/16: %w", firstNetwork, lastNetwork, last)
}

func (n *network) layHostCable(ctx context.Context) error {
	if taken(netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", n.number))) {
		return fmt.Errorf("10.%d.0.0/16 is in use", n.number)
	}
	err := run(ctx, "ip", "link", "add", n.cable(), "type", "veth", "peer", "name", "host", "netns", strconv.Itoa(n.pid))
	if err != nil {
		return err
	}
	return n.inside(ctx, "ip", "link", "set", "host", "master", "bridge0", "up")
}

// routeHost gives the host its address and its routes to the pods, and to the Services over the gateway.
func (n *network) routeHost(ctx context.Context) error {
	batch := fmt.Sprintf("address add %s/24 dev %[2]s\nlink set %[2]s up\n", n.host(), n.cable())
	batch += n.routes(0) + fmt.Sprintf("route add %s via %s\n", n.services(), n.machine(gateway))
	return input(exec.CommandContext(ctx, "ip", "-batch", "-"), batch)
}

// nowhere is a number that no machine has.
const nowhere = gateway + 1

// CutServices makes the host's route to the Services lead nowhere. A Lambda function has none either: it reaches the API server and,
// inside the VPC, pods. The machines keep theirs.
func (l *Lab) CutServices(ctx context.Context) error {
	if l.network == nil {
		return errors.New("cut the Services: a lab without machines has none")
	}
	return run(ctx, "ip", "route", "replace", l.network.services(), "via", l.network.machine(nowhere))
}

// routes returns the routes to the pods of all other possible machines, as lines for ip -batch.
func (n *network) routes(own int) string {
	var lines bytes.Buffer
	for number := 1; number <= maxMachines; number++ {
		if number != own {
			fmt.Fprintf(&lines, "route add %s via %s\n", n.podsOf(number), n.machine(number))
		}
	}
	return lines.String()
}

// connect adds a machine's link and configures the machine's end.
func (n *network) connect(ctx context.Context, number, pid int) error {
	port := port(number)
	err := n.inside(ctx, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(pid))
	if err != nil {
		return err
	}
	if err := n.inside(ctx, "ip", "link", "set", port, "master", "bridge0", "up"); err != nil {
		return err
	}
	batch := fmt.Sprintf("link set lo up\naddress add %s/24 dev eth0\nlink set eth0 up\n", n.machine(number))
	batch += n.routes(number) + fmt.Sprintf("route add default via %s\n", n.host())
	return input(enter(ctx, pid, "ip", "-batch", "-"), batch)
}

// cut silently drops all traffic to and from the machine.
func (n *network) cut(ctx context.Context, number int) error {
	return n.inside(ctx, "ip", "link", "set", port(number), "down")
}

func port(number int) string { return fmt.Sprintf("machine%d", number) }

func (n *network) inside(ctx context.Context, args ...string) error {
	return input(enter(ctx, n.pid, args...), "")
}

// enter returns a command in the network namespace of a process. Unlike `ip netns exec` it keeps the mounts.
func enter(ctx context.Context, pid int, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", pid)}, args...)...)
}

func run(ctx context.Context, name string, args ...string) error {
	return input(exec.CommandContext(ctx, name, args...), "")
}

// input runs a command with the text as its input. An error has the command's error text.
func input(cmd *exec.Cmd, text string) error {
	cmd.Stdin = bytes.NewBufferString(text)
	output, err := cmd.CombinedOutput()
	if err != nil {
		return errors.Join(fmt.Errorf("%q: %w", cmd.Args, err), errors.New(string(bytes.TrimSpace(output))))
	}
	return nil
}

// taken reports whether the host has an address in a network. An interface whose addresses cannot be read has none.
func taken(prefix netip.Prefix) bool {
	addresses, _ := net.InterfaceAddrs()
	for _, a := range addresses {
		if has, err := netip.ParsePrefix(a.String()); err == nil && has.Overlaps(prefix) {
			return true
		}
	}
	return false
}
