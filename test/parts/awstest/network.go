package awstest

import (
	"fmt"
	"net/http"
	"slices"
)

// SecurityGroup is a security group, and its rules of TCP.
type SecurityGroup struct {
	ID              string
	Ingress, Egress []Rule
}

// Rule names another security group, or addresses.
type Rule struct {
	Port        int // 0: every protocol and port
	Group, CIDR string
}

// Network is where the interfaces of a function or of a cluster's API server are.
type Network struct {
	VPC                     string
	Subnets, SecurityGroups []string

	// Of a cluster: addresses that its public endpoint admits. With them it has that endpoint, in a VPC too. None: all, if it has one.
	PublicCIDRs []string
}

// AddSecurityGroup makes a security group, or replaces it.
func (s *Server) AddSecurityGroup(g SecurityGroup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.securityGroups[g.ID] = g
}

// AddSubnet makes a subnet with these addresses.
func (s *Server) AddSubnet(id, cidr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.subnets[id] = cidr
}

// SetFunctionNetwork attaches a function to a VPC. Without it, the function is in none.
func (s *Server) SetFunctionNetwork(name string, n Network) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.networks[name] = n
}

// SetClusterNetwork gives a cluster a private endpoint, and takes the public one away unless PublicCIDRs says who may use it. The first of the security groups is the one that EKS
// made. Without it, the endpoint is public only.
func (s *Server) SetClusterNetwork(name string, n Network) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.account.clusters[name]
	c.network = n
	s.account.clusters[name] = c
}

type permissionXML struct {
	Protocol string   `xml:"ipProtocol"`
	From     *int     `xml:"fromPort"`
	To       *int     `xml:"toPort"`
	Groups   []string `xml:"groups>item>groupId,omitempty"`
	CIDRs    []string `xml:"ipRanges>item>cidrIp,omitempty"`
}

func permissions(rules []Rule) (all []permissionXML) {
	for _, r := range rules {
		x := permissionXML{Protocol: "-1"}
		if r.Port != 0 {
			x.Protocol, x.From, x.To = "tcp", &r.Port, &r.Port
		}
		if r.Group != "" {
			x.Groups = []string{r.Group}
		}
		if r.CIDR != "" {
			x.CIDRs = []string{r.CIDR}
		}
		all = append(all, x)
	}
	return all
}

type securityGroupXML struct {
	ID      string          `xml:"groupId"`
	Ingress []permissionXML `xml:"ipPermissions>item"`
	Egress  []permissionXML `xml:"ipPermissionsEgress>item"`
}

// describeSecurityGroups supports the filter group-id only, which may name groups that do not exist.
func describeSecurityGroups(a *account, r request) (any, *apiError) {
	ids, failure := onlyFilter(r, "group-id")
	if failure != nil {
		return nil, failure
	}
	var out struct {
		Groups []securityGroupXML `xml:"securityGroupInfo>item"`
	}
	for _, id := range ids {
		if g, known := a.securityGroups[id]; known {
			out.Groups = append(out.Groups, securityGroupXML{id, permissions(g.Ingress), permissions(g.Egress)})
		}
	}
	return out, nil
}

type subnetXML struct {
	ID   string `xml:"subnetId"`
	CIDR string `xml:"cidrBlock"`
}

// describeSubnets supports the filter subnet-id only, which may name subnets that do not exist.
func describeSubnets(a *account, r request) (any, *apiError) {
	ids, failure := onlyFilter(r, "subnet-id")
	if failure != nil {
		return nil, failure
	}
	var out struct {
		Subnets []subnetXML `xml:"subnetSet>item"`
	}
	for _, id := range ids {
		if cidr, known := a.subnets[id]; known {
			out.Subnets = append(out.Subnets, subnetXML{id, cidr})
		}
	}
	return out, nil
}

// onlyFilter returns the values of the filter with this name, each once. A request without it, or with more, is refused.
func onlyFilter(r request, name string) ([]string, *apiError) {
	if r.params.Get("Filter.1.Name") != name || r.params.Has("Filter.2.Name") {
		return nil, refused(http.StatusBadRequest, "InvalidParameterValue", fmt.Sprintf("awstest models the filter %s only", name))
	}
	ids := members(r.params, "Filter.1.Value")
	slices.Sort(ids)
	return slices.Compact(ids), nil
}
