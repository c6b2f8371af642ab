package kube

import (
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
)

// movedNoter notes that the API server has left its address, or has another CA. Both change when a cluster is deleted and created again under its
// name. The sweep invokes the function each minute, so a process can live for hours, and would not find the new cluster.
type movedNoter struct {
	next  http.RoundTripper
	moved *atomic.Bool
}

func (n movedNoter) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := n.next.RoundTrip(r)
	if err != nil && isElsewhere(err) {
		n.moved.Store(true)
	}
	return response, err
}

// isElsewhere reports whether an error says that no server has the address, or that another one has it. A server that does not answer may come back.
func isElsewhere(err error) bool {
	if dns, is := errors.AsType[*net.DNSError](err); is {
		return dns.IsNotFound
	}
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, invalid := errors.AsType[x509.CertificateInvalidError](err)
	_, other := errors.AsType[x509.HostnameError](err)
	return unknown || invalid || other
}
