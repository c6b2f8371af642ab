// Package eks is the adapter for Amazon EKS: it finds a cluster's API server, and authenticates the function to it.
package eks

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"k8s.io/client-go/rest"
)

// Cluster is an EKS cluster. Without Endpoint or CA, Access asks EKS for both.
type Cluster struct {
	Name     string
	Endpoint string
	CA       []byte // PEM
}

// Access returns the configuration of a client of the cluster's API server, with the identity of the function.
func (c Cluster) Access(ctx context.Context, config aws.Config) (*rest.Config, error) {
	if c.Endpoint == "" || len(c.CA) == 0 {
		described, err := describe(ctx, config, c.Name)
		if err != nil {
			return nil, err
		}
		c = described
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	signer, err := newSigner(c.Name, config)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            c.Endpoint,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.CA},
		UserAgent:       "quiesce",
		WrapTransport: func(next http.RoundTripper) http.RoundTripper {
			return &transport{signer: signer, next: next}
		},
	}, nil
}

func describe(ctx context.Context, config aws.Config, name string) (Cluster, error) {
	output, err := eks.NewFromConfig(config).DescribeCluster(ctx, &eks.DescribeClusterInput{Name: &name})
	if err != nil {
		return Cluster{}, fmt.Errorf("describe cluster %s: %w", name, err)
	}
	found := output.Cluster
	if found == nil || aws.ToString(found.Endpoint) == "" {
		return Cluster{}, fmt.Errorf("describe cluster %s: it has no endpoint yet", name)
	}
	if found.CertificateAuthority == nil || aws.ToString(found.CertificateAuthority.Data) == "" {
		return Cluster{}, fmt.Errorf("describe cluster %s: it has no certificate authority yet", name)
	}
	ca, err := base64.StdEncoding.DecodeString(*found.CertificateAuthority.Data)
	if err != nil {
		return Cluster{}, fmt.Errorf("decode the CA of cluster %s: %w", name, err)
	}
	return Cluster{Name: name, Endpoint: *found.Endpoint, CA: ca}, nil
}

// check reports what makes the cluster's address unfit for a token. Without a CA the client would trust every authority of the system,
// and without TLS anyone on the way could read the token.
func (c Cluster) check() error {
	endpoint, err := url.Parse(c.Endpoint)
	if err != nil || endpoint.Scheme != "https" || endpoint.Hostname() == "" || endpoint.User != nil {
		return fmt.Errorf("cluster %s: the endpoint must be https:// and a host, not %.100q", c.Name, c.Endpoint)
	}
	block, _ := pem.Decode(c.CA)
	if block == nil {
		return fmt.Errorf("cluster %s: the CA is no certificate in PEM", c.Name)
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		return fmt.Errorf("cluster %s: the CA is no certificate: %w", c.Name, err)
	}
	return nil
}
