package kube

import (
	"crypto/x509"
	"errors"
	"net"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// NextStep returns what a person does about an error of a request to the API server; empty: unknown.
func NextStep(err error) string {
	var unknownCA x509.UnknownAuthorityError
	var name *net.DNSError
	var network *net.OpError
	var request *url.Error
	switch {
	case apierrors.IsUnauthorized(err):
		return "give the function's role access to the cluster: the access entry, or the line of the output AwsAuth in aws-auth"
	case apierrors.IsForbidden(err):
		return "kubectl apply -f infra/rbac.yaml"
	case errors.As(err, &unknownCA):
		return "correct stack.clusterCA in quiesce.yaml, or leave it out"
	case errors.As(err, &name): // before the others, which contain it
		return "let the function resolve the API server's name: look at the DNS servers of its VPC (DHCP options), and at stack.clusterEndpoint"
	case errors.As(err, &network), errors.As(err, &request):
		return "open the way to the API server: its public access, or subnets and security groups of stack.vpc"
	}
	return ""
}
