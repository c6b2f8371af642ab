// Package eks is the adapter for Amazon EKS: it finds a cluster's API server, and authenticates the function to it.
package eks

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"

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
	if found == nil || found.CertificateAuthority == nil || aws.ToString(found.Endpoint) == "" {
		return Cluster{}, fmt.Errorf("describe cluster %s: it has no endpoint yet", name)
	}
	ca, err := base64.StdEncoding.DecodeString(aws.ToString(found.CertificateAuthority.Data))
	if err != nil {
		return Cluster{}, fmt.Errorf("decode the CA of cluster %s: %w", name, err)
	}
	return Cluster{Name: name, Endpoint: *found.Endpoint, CA: ca}, nil
}
