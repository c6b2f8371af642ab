package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// publicPath checks the path to a public endpoint that admits some addresses only
// (https://docs.aws.amazon.com/eks/latest/APIReference/API_VpcConfigRequest.html). A function in no VPC has addresses of AWS, which change.
// In a VPC it has those of NAT gateways, which are not read. There the private endpoint, if there is one, is what it uses.
func (v *view) publicPath() []Finding {
	n := v.Network
	if !n.Public || admitsAll(n.PublicCIDRs) || n.FunctionVPC != "" && n.Private {
		return nil
	}
	f := Finding{
		Where: "function " + v.Function.Name, Severity: Critical,
		What: "is in no VPC, so its addresses are not fixed, and the cluster's public endpoint admits only " + named(texts(n.PublicCIDRs)),
		Cost: "it cannot reach the API server from any other address: nodes go undrained",
		Fix:  "set stack.vpc in quiesce.yaml, and deploy (infra/README.md): in the cluster's VPC it uses the private endpoint",
	}
	if n.FunctionVPC != "" {
		f.Severity, f.Cost = Info, "without them, it cannot reach the API server, and nodes go undrained"
		f.What = "uses the cluster's public endpoint, and whether that admits its NAT gateways is not clear: it admits only " + named(texts(n.PublicCIDRs))
		f.Fix = "admit their addresses, or enable the private endpoint; check runs each step of a drain"
		f.Command = "quiescectl check --function " + Quote(v.Function.Invoked)
	} else if !n.Private {
		f.Fix = "enable the private endpoint, then " + f.Fix
		f.Command = fmt.Sprintf("aws eks update-cluster-config --name %s --resources-vpc-config endpointPublicAccess=true,publicAccessCidrs=%s,endpointPrivateAccess=true",
			Quote(n.Cluster), strings.Join(texts(n.PublicCIDRs), ","))
	}
	return []Finding{f}
}

// admitsAll reports whether the blocks have every address of IPv4, which a function in no VPC uses. No block at all means all.
func admitsAll(blocks []netip.Prefix) bool {
	var covered uint64
	kept := []netip.Prefix{}
	for _, b := range slices.SortedFunc(slices.Values(blocks), func(a, b netip.Prefix) int { return a.Bits() - b.Bits() }) {
		if !b.Addr().Is4() || slices.ContainsFunc(kept, b.Overlaps) {
			continue // a smaller block that overlaps a larger one is in it
		}
		kept, covered = append(kept, b), covered+1<<(32-b.Bits())
	}
	return len(blocks) == 0 || covered == 1<<32
}

func texts(blocks []netip.Prefix) (all []string) {
	for _, b := range blocks {
		all = append(all, b.String())
	}
	return all
}
