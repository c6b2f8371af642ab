package awstest

import (
	"net/http"
	"net/url"
	"strings"
)

// eksVersion is the version in DescribeCluster. Nothing depends on it.
const eksVersion = "1.36"

type cluster struct {
	endpoint string
	ca       []byte
	network  Network
}

// AddCluster adds a cluster for DescribeCluster; ca is the certificate of its authority, as PEM.
func (s *Server) AddCluster(name, endpoint string, ca []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.clusters[name] = cluster{endpoint: endpoint, ca: ca}
}

var eksActions = map[string]action{"DescribeCluster": describeCluster}

type clusterJSON struct {
	Name                 string        `json:"name"`
	ARN                  string        `json:"arn"`
	Endpoint             string        `json:"endpoint"`
	Version              string        `json:"version"`
	Status               string        `json:"status"`
	CertificateAuthority authorityJSON `json:"certificateAuthority"`
	Network              networkJSON   `json:"resourcesVpcConfig"`
}

type authorityJSON struct {
	Data []byte `json:"data"`
}

type networkJSON struct {
	VPC            string   `json:"vpcId,omitempty"`
	Subnets        []string `json:"subnetIds"`
	ClusterGroup   string   `json:"clusterSecurityGroupId,omitempty"`
	SecurityGroups []string `json:"securityGroupIds"`
	Public         bool     `json:"endpointPublicAccess"`
	Private        bool     `json:"endpointPrivateAccess"`
	PublicCIDRs    []string `json:"publicAccessCidrs"`
}

func (n Network) ofCluster() networkJSON {
	x := networkJSON{VPC: n.VPC, Subnets: n.Subnets, Public: n.VPC == "" || len(n.PublicCIDRs) > 0, Private: n.VPC != "", PublicCIDRs: n.PublicCIDRs}
	if x.Public && len(x.PublicCIDRs) == 0 {
		x.PublicCIDRs = []string{"0.0.0.0/0"} // the default, which DescribeCluster returns too
	}
	if len(n.SecurityGroups) > 0 {
		x.ClusterGroup, x.SecurityGroups = n.SecurityGroups[0], n.SecurityGroups[1:]
	}
	return x
}

func describeCluster(a *account, r request) (any, *apiError) {
	name := r.params.Get("name")
	c, ok := a.clusters[name]
	if !ok {
		return nil, refused(http.StatusNotFound, "ResourceNotFoundException", "No cluster found for name: "+name+".")
	}
	return map[string]clusterJSON{"cluster": {
		Name:                 name,
		ARN:                  "arn:aws:eks:" + Region + ":" + Account + ":cluster/" + name,
		Endpoint:             c.endpoint,
		Version:              eksVersion,
		Status:               "ACTIVE",
		CertificateAuthority: authorityJSON{c.ca},
		Network:              c.network.ofCluster(),
	}}, nil
}

// restJSON is the protocol of EKS: method and path select the action (smithy.io, "AWS restJson1 protocol").
type restJSON struct{}

func (restJSON) read(r *http.Request, _ []byte) (string, url.Values) {
	name, ok := strings.CutPrefix(r.URL.Path, "/clusters/")
	if r.Method != http.MethodGet || !ok || strings.Contains(name, "/") {
		return r.Method + " " + r.URL.Path, nil
	}
	return "DescribeCluster", url.Values{"name": {name}}
}

func (restJSON) answer(_ string, result any) reply { return jsonReply(http.StatusOK, result) }

func (restJSON) refuse(e *apiError) reply {
	out := jsonReply(e.status, map[string]string{"message": e.message})
	out.header.Set("X-Amzn-ErrorType", e.code)
	return out
}
