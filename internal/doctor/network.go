package doctor

import (
	"fmt"
	"net/netip"
	"slices"

	"quiesce/internal/config"
	"quiesce/internal/pooler"
)

// Network is what AWS says of the paths from the function to the cluster.
type Network struct {
	Cluster                 string                   // its name
	Public, Private         bool                     // the endpoints that the API server has
	PublicCIDRs             []netip.Prefix           // addresses that the public one admits; none: all
	APIServer               Place                    // security groups of its interfaces: the one that EKS made is the first
	Function                Place                    // of the function's interfaces
	ClusterVPC, FunctionVPC string                   // the latter is empty: the function is in no VPC
	InstanceGroups          map[string][]string      // security groups of instances, by instance ID
	Groups                  map[string]SecurityGroup // those that are known
}

// Place is where interfaces are.
type Place struct {
	Groups    []string       // their security groups
	Addresses []netip.Prefix // that they may have; none: unknown
}

// SecurityGroup has the rules of one that concern TCP.
type SecurityGroup struct{ Ingress, Egress []NetworkRule }

// NetworkRule lets TCP pass to ports, from or to groups and addresses.
type NetworkRule struct {
	From, To    int
	Groups      []string
	CIDRs       []netip.Prefix
	PrefixLists bool // it names some, and their addresses are not read
}

const apiPort = 443

// passage says whether rules let a connection pass.
type passage int

const (
	blocked passage = iota
	unclear         // it depends on what was not read
	open
)

// path is a connection of the function.
type path struct {
	name string // of its end
	port int
	Place
	severity Severity
	cost     string
}

// networkProblems finds connections of the function that cannot be made.
func (v *view) networkProblems() []Finding {
	n := v.Network
	switch {
	case n == nil || v.Function == nil:
		return nil
	case n.FunctionVPC == "" && !n.Public:
		return []Finding{v.outside()}
	case n.FunctionVPC != n.ClusterVPC: // addresses may be translated on the way
		return v.publicPath()
	}
	return slices.Concat(v.publicPath(), v.apiServerPath(), v.consolePaths())
}

func (v *view) outside() Finding {
	return Finding{
		Where: "function " + v.Function.Name, Severity: Critical, What: "is in no VPC, and the cluster's endpoint is private only",
		Cost: "it cannot reach the API server: nodes go undrained", Fix: "set stack.vpc in quiesce.yaml, and deploy (infra/README.md)",
	}
}

// apiServerPath checks the path to the API server. In the cluster's VPC its name has the private addresses, if there are any
// (https://docs.aws.amazon.com/eks/latest/userguide/cluster-endpoint.html).
func (v *view) apiServerPath() []Finding {
	if !v.Network.Private {
		return nil
	}
	w := path{"the API server", apiPort, v.Network.APIServer, Critical, "the function cannot reach the API server: nodes go undrained"}
	in, out := v.Network.passages(w)
	found := v.blockedPath(w, in, out)
	if len(found) == 0 && (in == unclear || out == unclear) {
		found = append(found, Finding{
			Where: "function " + v.Function.Name, Severity: Info, What: "whether security groups let it reach the API server is not clear: they name addresses",
			Cost: "without that path, nodes go undrained", Fix: "try it: check runs each step of a drain", Command: "quiescectl check --function " + Quote(v.Function.Invoked),
		})
	}
	return found
}

// consolePaths checks the paths to consoles at addresses of pods. What is not clear is not said: quiesce.yaml may be older than the function.
func (v *view) consolePaths() (found []Finding) {
	for _, w := range v.poolers() {
		for _, p := range w.pods {
			to, is := v.consolePath(w, p)
			if !is {
				continue
			}
			in, out := v.Network.passages(to)
			if blocked := v.blockedPath(to, in, out); len(blocked) > 0 {
				found = append(found, blocked...)
				break // its other pods have the same problem
			}
		}
	}
	return found
}

func (v *view) consolePath(w workload, p pod) (to path, is bool) {
	console := consoleOf(v.Config, p)
	node := v.nodes[p.Spec.NodeName]
	if console == nil || node == nil {
		return path{}, false
	}
	to = path{
		name: "the consoles of " + w.String(), port: pooler.ConsolePort(console.Port, p.escort), severity: Warning,
		cost: "a drain evicts these poolers without an escort: their own preStop hook decides",
	}
	to.Groups = v.Network.InstanceGroups[InstanceID(node)]
	if address, err := netip.ParseAddr(p.Status.PodIP); err == nil {
		to.Addresses = []netip.Prefix{netip.PrefixFrom(address, address.BitLen())}
	}
	return to, true
}

// ownGroups marks a pod with security groups of its own (https://docs.aws.amazon.com/eks/latest/userguide/security-groups-for-pods.html).
const ownGroups = "vpc.amazonaws.com/pod-eni"

// consoleOf returns how the function connects to the console of a pooler; nil: not at its address, or its groups are not those of its node.
func consoleOf(c config.Config, p pod) *config.Console {
	if !pooler.Recognize(p.Labels, p.Annotations) || p.Annotations[ownGroups] != "" {
		return nil
	}
	for _, phase := range c.Phases {
		if phase.PGBouncer == nil || !phase.Match.Allows(p.Namespace, p.Spec.PriorityClassName, p.Labels) {
			continue
		}
		console := &phase.PGBouncer.Console
		inSecret := console.Secret != nil && console.Secret.Namespace == p.Namespace
		inARN := console.SecretARN != "" && (len(console.Namespaces) == 0 || console.Namespaces.Match(p.Namespace))
		if console.ConnectVia != config.ViaPodIP || !inSecret && !inARN {
			return nil
		}
		return console
	}
	return nil
}

// ConsoleInstances returns the instances that run poolers whose consoles the function connects to at the addresses of their pods.
func ConsoleInstances(s Snapshot) (ids []string) {
	v := newView(s)
	for _, w := range v.poolers() {
		for _, p := range w.pods {
			if node := v.nodes[p.Spec.NodeName]; node != nil && InstanceID(node) != "" && consoleOf(s.Config, p) != nil {
				ids = append(ids, InstanceID(node))
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// blockedPath returns a finding for each end whose security groups block the path, with the command that opens it.
func (v *view) blockedPath(w path, in, out passage) (found []Finding) {
	from, to := v.Network.Function.Groups, w.Groups
	function := fmt.Sprintf("function %s (%s)", v.Function.Name, named(from))
	if in == blocked {
		found = append(found, Finding{
			Where: "security group " + named(to), Severity: w.severity, Cost: w.cost,
			What: fmt.Sprintf("does not admit %s to %s on port %d", function, w.name, w.port),
			Fix:  "admit it; a stack with stack.vpc does so for the security groups that quiesce.yaml names",
			Command: fmt.Sprintf("aws ec2 authorize-security-group-ingress --group-id %s --protocol tcp --port %d --source-group %s",
				Quote(to[0]), w.port, Quote(from[0])),
		})
	}
	if out == blocked {
		permission := fmt.Sprintf("IpProtocol=tcp,FromPort=%d,ToPort=%d,UserIdGroupPairs=[{GroupId=%s}]", w.port, w.port, to[0])
		found = append(found, Finding{
			Where: "security group " + named(from), Severity: w.severity, Cost: w.cost,
			What:    fmt.Sprintf("does not let function %s out to %s (%s) on port %d", v.Function.Name, w.name, named(to), w.port),
			Fix:     "allow it; a stack with stack.vpc does so for the security groups that quiesce.yaml names",
			Command: fmt.Sprintf("aws ec2 authorize-security-group-egress --group-id %s --ip-permissions %s", Quote(from[0]), Quote(permission)),
		})
	}
	return found
}

// passages returns whether the end's groups let the function in, and whether the function's let it out.
func (n *Network) passages(w path) (in, out passage) {
	ingress, egress := func(g SecurityGroup) []NetworkRule { return g.Ingress }, func(g SecurityGroup) []NetworkRule { return g.Egress }
	if len(n.Function.Groups) == 0 || len(w.Groups) == 0 {
		return unclear, unclear
	}
	return n.passage(w.Groups, ingress, w.port, n.Function), n.passage(n.Function.Groups, egress, w.port, w.Place)
}

// passage returns whether a rule of one of the groups names the other place.
func (n *Network) passage(groups []string, rules func(SecurityGroup) []NetworkRule, port int, other Place) passage {
	var addresses []netip.Prefix
	doubt := false
	for _, id := range groups {
		group, known := n.Groups[id]
		doubt = doubt || !known
		for _, r := range rules(group) {
			if port < r.From || port > r.To {
				continue
			}
			if slices.ContainsFunc(r.Groups, func(id string) bool { return slices.Contains(other.Groups, id) }) {
				return open
			}
			addresses = append(addresses, r.CIDRs...)
			doubt = doubt || r.PrefixLists
		}
	}
	byAddress := coverage(addresses, other.Addresses)
	if byAddress == blocked && doubt {
		return unclear
	}
	return byAddress
}

// coverage returns whether addresses are all in the allowed ones, or none of them.
func coverage(allowed, addresses []netip.Prefix) passage {
	if slices.ContainsFunc(allowed, func(a netip.Prefix) bool { return a.Bits() == 0 && a.Addr().Is4() }) {
		return open
	}
	inside, touched := 0, 0
	for _, address := range addresses {
		switch {
		case slices.ContainsFunc(allowed, func(a netip.Prefix) bool { return a.Bits() <= address.Bits() && a.Contains(address.Addr()) }):
			inside++
		case slices.ContainsFunc(allowed, address.Overlaps):
			touched++
		}
	}
	switch {
	case len(addresses) > 0 && inside == len(addresses):
		return open
	case inside > 0 || touched > 0 || len(addresses) == 0 && len(allowed) > 0:
		return unclear
	}
	return blocked
}
