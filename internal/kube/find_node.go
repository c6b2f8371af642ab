package kube

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

const (
	// maxCandidates bounds the nodes that are taken for one instance. A second one is an accident, or an attack. Each one that is
	// drained takes time from the others.
	maxCandidates = 10
	// maxNamed bounds the nodes that an ambiguity names. Their names have at most 253 bytes each.
	maxNamed = 5
)

// FindNodes implements termination.Kubernetes. If the node that EC2 names has the instance's provider ID, one request is enough.
// Otherwise all nodes are searched: the instance may have any name, and several Node objects may claim it.
func (c *Client) FindNodes(ctx context.Context, instanceID string, known termination.EC2Instance) (termination.FoundNodes, error) {
	search, seen := nodeSearch{instanceID: instanceID, known: known}, ""
	if known.PrivateDNS != "" {
		named, err := c.nodeIfExists(ctx, known.PrivateDNS)
		if err != nil {
			return termination.FoundNodes{}, err
		}
		if named != nil {
			search.consider(named)
			seen = named.Name
		}
		if named != nil && hasInstance(named, instanceID) {
			return c.found(search), nil
		}
	}
	err := c.eachNode(ctx, metav1.ListOptions{}, func(n *corev1.Node) (done bool) {
		if n.Name != seen {
			search.consider(n)
		}
		return false
	})
	if err != nil {
		return termination.FoundNodes{}, fmt.Errorf("list nodes: %w", err)
	}
	return c.found(search), nil
}

// found returns the result of a search. Cordon comes next, and needs no second look at nodes that were just read.
func (c *Client) found(s nodeSearch) (found termination.FoundNodes) {
	for _, candidate := range s.candidates {
		found.Nodes = append(found.Nodes, *toNode(candidate.node))
		c.lastRead.put(candidate.node)
	}
	found.Ambiguity = s.ambiguity()
	return found
}

// nodeSearch collects the nodes that are taken for an instance.
type nodeSearch struct {
	instanceID string
	known      termination.EC2Instance
	candidates []candidate // the best first
	total      int         // of all candidates, beyond maxCandidates too
}

// candidate is a node that is taken for the instance.
type candidate struct {
	node    *corev1.Node
	trusted trust
}

// trust says how well EC2 confirms a candidate. NodeRestriction lets a kubelet write only to the node of its own name, but there
// any address (https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction). So the name is
// worth more than the address.
type trust int

// From the least to the most.
const (
	claimOnly   trust = iota // nothing that EC2 says of the instance is true of the node
	sameAddress              // the node has the instance's address, and claims the instance
	sameName                 // the node has the instance's name, and claims the instance or has its address
)

// consider adds the node to the candidates, if it claims the instance, or has its name and its address. Beyond maxCandidates only
// the best stay.
func (s *nodeSearch) consider(n *corev1.Node) {
	trusted, named := claimOnly, s.known.PrivateDNS != "" && n.Name == s.known.PrivateDNS
	addressed := hasAddress(n, s.known.Addresses)
	switch claims := hasInstance(n, s.instanceID); {
	case named && (claims || addressed):
		trusted = sameName
	case !claims:
		return
	case addressed:
		trusted = sameAddress
	}
	s.total++
	s.candidates = append(s.candidates, candidate{withoutImages(n), trusted})
	slices.SortFunc(s.candidates, func(a, b candidate) int {
		return cmp.Or(-cmp.Compare(a.trusted, b.trusted), strings.Compare(a.node.Name, b.node.Name))
	})
	s.candidates = s.candidates[:min(len(s.candidates), maxCandidates)]
}

// ambiguity returns why it is not certain which node is the instance's; empty: it is.
func (s *nodeSearch) ambiguity() string {
	switch {
	case s.total == 0:
		return ""
	case s.total > 1:
		return fmt.Sprintf("%d nodes are taken for %s: %s", s.total, s.instanceID, s.names())
	}
	only := s.candidates[0]
	switch claimed := claimedInstance(only.node); {
	case claimed == "":
		return fmt.Sprintf("node %s has the name and the address of %s, but no provider ID", only.node.Name, s.instanceID)
	case claimed != s.instanceID:
		return fmt.Sprintf("node %s has the name and the address of %s, but the provider ID of %.32q", only.node.Name, s.instanceID, claimed)
	case only.trusted == claimOnly && (s.known.PrivateDNS != "" || len(s.known.Addresses) > 0):
		return fmt.Sprintf("node %s claims to be %s, but has neither the name nor the address that EC2 has for it", only.node.Name, s.instanceID)
	}
	return ""
}

// names returns the names of the first candidates, with what speaks for each.
func (s *nodeSearch) names() string {
	var names []string
	for _, c := range s.candidates[:min(len(s.candidates), maxNamed)] {
		why := map[trust]string{claimOnly: "only by provider ID", sameAddress: "by address", sameName: "by name"}[c.trusted]
		names = append(names, c.node.Name+" ("+why+")")
	}
	if more := s.total - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}

// hasAddress reports whether the node's kubelet says that one of these is its address inside the VPC.
func hasAddress(n *corev1.Node, known []netip.Addr) bool {
	return slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool {
		ip, err := netip.ParseAddr(a.Address)
		return err == nil && a.Type == corev1.NodeInternalIP && slices.Contains(known, ip)
	})
}

// withoutImages returns a copy of the node without what is large: its images, of which a kubelet reports 50, and the fields that
// name who changed what.
func withoutImages(n *corev1.Node) *corev1.Node {
	kept := &corev1.Node{ObjectMeta: n.ObjectMeta, Spec: n.Spec, Status: corev1.NodeStatus{
		Conditions: n.Status.Conditions, Addresses: n.Status.Addresses,
	}}
	kept.ManagedFields = nil
	return kept
}

const (
	// rememberedFor is how long a node that was read needs no second look: from the search to the cordon. A change in between
	// makes the patch fail with a conflict.
	rememberedFor = 5 * time.Second
	// maxRemembered bounds the nodes that are remembered, for invocations that run in one process.
	maxRemembered = 64
)

// readNodes remembers nodes for one use each, so that a patch right after a search needs no read of its own.
type readNodes struct {
	mutex sync.Mutex
	nodes map[string]readNode // by name
}

type readNode struct {
	node *corev1.Node
	at   time.Time
}

// put remembers a node.
func (r *readNodes) put(n *corev1.Node) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if len(r.nodes) >= maxRemembered || r.nodes == nil {
		r.nodes = map[string]readNode{}
	}
	r.nodes[n.Name] = readNode{n, time.Now()}
}

// take returns the node, if its object was read just now, and forgets it.
func (r *readNodes) take(node drain.Node) *corev1.Node {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	read, exists := r.nodes[node.Name]
	delete(r.nodes, node.Name)
	if !exists || string(read.node.UID) != node.UID || time.Since(read.at) > rememberedFor {
		return nil
	}
	return read.node
}
