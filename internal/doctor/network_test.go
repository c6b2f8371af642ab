package doctor

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
)

func ruleOf(port int, group string, cidrs ...string) NetworkRule {
	r := NetworkRule{From: port, To: port}
	if group != "" {
		r.Groups = []string{group}
	}
	for _, text := range cidrs {
		r.CIDRs = append(r.CIDRs, netip.MustParsePrefix(text))
	}
	return r
}

// addNetwork gives the function a way to the API server and to the poolers' consoles.
func (w *world) addNetwork() *Network {
	subnets := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.0.1.0/24")}
	w.Network = &Network{
		Private: true, ClusterVPC: "vpc-1", FunctionVPC: "vpc-1", InstanceGroups: map[string][]string{"i-a1": {"sg-node"}, "i-b1": {"sg-node"}},
		APIServer: Place{[]string{"sg-cluster"}, subnets}, Function: Place{[]string{"sg-function"}, subnets},
		Groups: map[string]SecurityGroup{
			"sg-cluster":  {Ingress: []NetworkRule{ruleOf(443, "sg-function")}},
			"sg-node":     {Ingress: []NetworkRule{ruleOf(6432, "sg-function")}},
			"sg-function": {Egress: []NetworkRule{ruleOf(443, "", "0.0.0.0/0"), ruleOf(6432, "sg-node")}},
		},
	}
	console := config.Console{ConnectVia: config.ViaPodIP, Port: 6432, Secret: &config.SecretRef{Namespace: "db", Name: "admin"}}
	w.Config.Phases = []config.Phase{{Name: "poolers", PGBouncer: &config.PGBouncer{Strategy: config.StrategyAuto, Console: console}}}
	return w.Network
}

func (n *Network) admit(group string, rules ...NetworkRule) {
	n.Groups[group] = SecurityGroup{Ingress: rules, Egress: n.Groups[group].Egress}
}

// publish gives the cluster a public endpoint for these addresses.
func (n *Network) publish(cidrs ...string) {
	n.Public, n.PublicCIDRs = true, ruleOf(0, "", cidrs...).CIDRs
}

const (
	notAdmitted = "critical security group sg-cluster: does not admit function quiesce-prod (sg-function) to the API server on port 443"
	notClear    = "info function quiesce-prod: whether security groups let it reach the API server is not clear: they name addresses"
	notFixed    = "critical function quiesce-prod: is in no VPC, so its addresses are not fixed, and the cluster's public endpoint admits only 203.0.113.0/24"
	notNAT      = "info function quiesce-prod: uses the cluster's public endpoint, and whether that admits its NAT gateways is not clear: it admits only 203.0.113.0/24"
	noConsole   = "warning security group sg-node: does not admit function quiesce-prod (sg-function) to the consoles of deployment db/pgbouncer on port 6432"
)

var networkCases = []struct {
	name   string
	change func(*world, *Network)
	want   []string
}{
	{"open", func(*world, *Network) {}, nil},
	{"no rule", func(_ *world, n *Network) { n.admit("sg-cluster") }, []string{notAdmitted}},
	{"another port", func(_ *world, n *Network) { n.admit("sg-cluster", ruleOf(444, "sg-function")) }, []string{notAdmitted}},
	{"another group", func(_ *world, n *Network) { n.admit("sg-cluster", ruleOf(443, "sg-other")) }, []string{notAdmitted}},
	{"other addresses", func(_ *world, n *Network) { n.admit("sg-cluster", ruleOf(443, "", "10.9.0.0/16", "::/0")) }, []string{notAdmitted}},
	{"all addresses", func(_ *world, n *Network) { n.admit("sg-cluster", ruleOf(443, "", "0.0.0.0/0")) }, nil},
	{"the VPC's addresses", func(_ *world, n *Network) { n.admit("sg-cluster", ruleOf(443, "", "10.0.0.0/16")) }, nil},
	{"each subnet", func(_ *world, n *Network) {
		n.admit("sg-cluster", ruleOf(443, "", "10.0.0.0/24"), ruleOf(443, "", "10.0.1.0/24"))
	}, nil},
	{"one subnet", func(_ *world, n *Network) { n.admit("sg-cluster", ruleOf(443, "", "10.0.0.0/24")) }, []string{notClear}},
	{"a part of a subnet", func(_ *world, n *Network) { n.admit("sg-cluster", ruleOf(443, "", "10.0.0.128/25")) }, []string{notClear}},
	{"unknown subnets", func(_ *world, n *Network) {
		n.Function.Addresses = nil
		n.admit("sg-cluster", ruleOf(443, "", "10.9.0.0/16"))
	}, []string{notClear}},
	{"a prefix list", func(_ *world, n *Network) { n.admit("sg-cluster", NetworkRule{To: 65535, PrefixLists: true}) }, []string{notClear}},
	{"an unknown group", func(_ *world, n *Network) { delete(n.Groups, "sg-cluster") }, []string{notClear}},
	{"another group of the API server admits", func(_ *world, n *Network) {
		n.admit("sg-cluster")
		n.APIServer.Groups = append(n.APIServer.Groups, "sg-more")
		n.admit("sg-more", NetworkRule{To: 65535, Groups: []string{"sg-function"}})
	}, nil},
	{"no way out", func(_ *world, n *Network) {
		n.Groups["sg-function"] = SecurityGroup{Egress: []NetworkRule{ruleOf(6432, "sg-node")}}
	}, []string{"critical security group sg-function: does not let function quiesce-prod out to the API server (sg-cluster) on port 443"}},
	{"public too", func(_ *world, n *Network) { n.Public = true; n.admit("sg-cluster") }, []string{notAdmitted}},
	{"public only", func(_ *world, n *Network) { n.Public, n.Private = true, false; n.admit("sg-cluster") }, nil},
	{"in another VPC", func(_ *world, n *Network) { n.FunctionVPC = "vpc-2"; n.admit("sg-cluster") }, nil},
	{"in no VPC, and public", func(_ *world, n *Network) { n.FunctionVPC, n.Public = "", true; n.admit("sg-cluster") }, nil},
	{"in no VPC, and private", func(_ *world, n *Network) { n.FunctionVPC = "" },
		[]string{"critical function quiesce-prod: is in no VPC, and the cluster's endpoint is private only"}},
	{"in no VPC, and public for some", func(_ *world, n *Network) { n.FunctionVPC = ""; n.publish("203.0.113.0/24") }, []string{notFixed}},
	{"in no VPC, and public only for some", func(_ *world, n *Network) {
		n.FunctionVPC, n.Private = "", false
		n.publish("203.0.113.0/24")
	}, []string{notFixed}},
	{"in no VPC, and public for all IPv6", func(_ *world, n *Network) { n.FunctionVPC = ""; n.publish("203.0.113.0/24", "::/0") },
		[]string{notFixed + " and ::/0"}},
	{"in no VPC, and public for all", func(_ *world, n *Network) { n.FunctionVPC = ""; n.publish("203.0.113.0/24", "0.0.0.0/0") }, nil},
	{"in no VPC, and public for all in parts", func(_ *world, n *Network) {
		n.FunctionVPC = ""
		n.publish("203.0.113.0/24", "0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/2", "128.0.0.0/1")
	}, nil},
	{"in no VPC, and public for nearly all", func(_ *world, n *Network) { n.FunctionVPC = ""; n.publish("0.0.0.0/1", "128.0.0.0/2", "128.0.0.0/2") },
		[]string{"critical function quiesce-prod: is in no VPC, so its addresses are not fixed, and the cluster's public endpoint admits only 0.0.0.0/1 and 128.0.0.0/2"}},
	{"public for some too", func(_ *world, n *Network) { n.publish("203.0.113.0/24") }, nil},
	{"public only for some", func(_ *world, n *Network) { n.Private = false; n.publish("203.0.113.0/24") }, []string{notNAT}},
	{"public only for some, and consoles", func(_ *world, n *Network) { n.Private = false; n.publish("203.0.113.0/24"); n.admit("sg-node") },
		[]string{noConsole, notNAT}},
	{"in another VPC, and public only for some", func(_ *world, n *Network) {
		n.FunctionVPC, n.Private = "vpc-2", false
		n.publish("203.0.113.0/24")
	}, []string{notNAT}},
	{"in another VPC, and public for some", func(_ *world, n *Network) { n.FunctionVPC = "vpc-2"; n.publish("203.0.113.0/24") }, nil},
	{"consoles", func(_ *world, n *Network) { n.admit("sg-node") }, []string{noConsole}},
	{"consoles, other port", func(w *world, _ *Network) { w.Config.Phases[0].PGBouncer.Port = 6433 }, []string{
		"warning security group sg-node: does not admit function quiesce-prod (sg-function) to the consoles of deployment db/pgbouncer on port 6433",
		"warning security group sg-function: does not let function quiesce-prod out to the consoles of deployment db/pgbouncer (sg-node) on port 6433",
	}},
	{"consoles of unknown instances", func(_ *world, n *Network) { n.admit("sg-node"); n.InstanceGroups = nil }, nil},
	{"consoles through the API server", func(w *world, n *Network) {
		n.admit("sg-node")
		w.Config.Phases[0].PGBouncer.ConnectVia = config.ViaPortForward
	}, nil},
	{"consoles without a login", func(w *world, n *Network) { n.admit("sg-node"); w.Config.Phases[0].PGBouncer.Secret = nil }, nil},
	{"pods with groups of their own", func(w *world, n *Network) {
		n.admit("sg-node")
		for i := range w.Pods {
			w.Pods[i].Annotations = map[string]string{ownGroups: "[]"}
		}
	}, nil},
}

func TestNetwork_Rules_BlockOrNot(t *testing.T) {
	for _, c := range networkCases {
		w := healthy(t)
		c.change(w, w.addNetwork())
		require.Equal(t, c.want, lines(Examine(w.Snapshot, "")), c.name)
	}
}

func TestNetwork_Blocked_CommandOpensIt(t *testing.T) {
	w := healthy(t)
	n := w.addNetwork()
	n.Groups["sg-cluster"], n.Groups["sg-function"] = SecurityGroup{}, SecurityGroup{Egress: []NetworkRule{ruleOf(6432, "sg-node")}}
	found := Examine(w.Snapshot, "").Findings
	require.Len(t, found, 2)
	require.Equal(t, "aws ec2 authorize-security-group-ingress --group-id sg-cluster --protocol tcp --port 443 --source-group sg-function", found[0].Command)
	require.Equal(t, "aws ec2 authorize-security-group-egress --group-id sg-function --ip-permissions "+
		"'IpProtocol=tcp,FromPort=443,ToPort=443,UserIdGroupPairs=[{GroupId=sg-cluster}]'", found[1].Command)
	require.Equal(t, []string{"i-a1", "i-b1"}, ConsoleInstances(w.Snapshot))
}

func TestNetwork_PublicEndpointForSome_CommandAddsThePrivateOne(t *testing.T) {
	w := healthy(t)
	n := w.addNetwork()
	n.Cluster, n.FunctionVPC, n.Private = "prod", "", false
	n.publish("203.0.113.0/24", "198.51.100.7/32")
	command := func() string {
		found := Examine(w.Snapshot, "").Findings
		require.Len(t, found, 1)
		return found[0].Command
	}
	require.Equal(t, "aws eks update-cluster-config --name prod --resources-vpc-config "+
		"endpointPublicAccess=true,publicAccessCidrs=203.0.113.0/24,198.51.100.7/32,endpointPrivateAccess=true", command(), "who was admitted still is")
	n.Private = true
	require.Empty(t, command(), "what is left to do is the stack's")
	n.FunctionVPC, n.Private = "vpc-1", false
	require.Equal(t, "quiescectl check --function quiesce-prod:live", command())
}
