package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"
)

const (
	// validity is longer than any lab runs. It starts in the past because clocks of virtual machines are sometimes set back.
	validity  = 7 * 24 * time.Hour
	clockSkew = time.Hour
	// serialBits is the size that RFC 5280, section 4.1.2.2, allows.
	serialBits = 128
)

// user is the subject of a client certificate.
type user struct {
	Name   string
	Groups []string
}

// The lab's own users. Those in the group system:masters need no RBAC rule and bypass the API server's flow control
// (https://kubernetes.io/docs/concepts/cluster-administration/flow-control/), so that the simulated parts do not slow a test
// down.
var (
	adminUser       = user{Name: "admin", Groups: []string{"system:masters"}}
	controllersUser = user{Name: "system:kube-controller-manager", Groups: []string{"system:masters"}}
	schedulerUser   = user{Name: "system:kube-scheduler"}
	kwokUser        = user{Name: "kwok", Groups: []string{"system:masters"}}
	apiServerUser   = user{Name: "kube-apiserver"} // in requests to kubelets
)

// identity is a certificate and its key.
type identity struct {
	certificate    *x509.Certificate
	key            *ecdsa.PrivateKey
	certificatePEM []byte
	keyPEM         []byte
}

// pki is the lab's certificate authority and the certificate of all servers of the lab.
type pki struct {
	authority *identity
	server    *identity
}

// newPKI makes a pki for servers on loopback and on these addresses.
func newPKI(addresses ...string) (*pki, error) {
	ips := []net.IP{net.ParseIP(loopback)}
	for _, address := range addresses {
		ips = append(ips, net.ParseIP(address))
	}
	authority, err := newIdentity(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "quiesce lab"},
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("make the certificate authority: %w", err)
	}
	server, err := newIdentity(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "quiesce lab server"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"},
		IPAddresses: ips,
	}, authority)
	if err != nil {
		return nil, fmt.Errorf("make the servers' certificate: %w", err)
	}
	return &pki{authority: authority, server: server}, nil
}

// client makes a client certificate for Kubernetes: the common name is the user, the organizations are the groups
// (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates).
func (p *pki) client(u user) (*identity, error) {
	id, err := newIdentity(&x509.Certificate{
		Subject:     pkix.Name{CommonName: u.Name, Organization: u.Groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, p.authority)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of %s: %w", u.Name, err)
	}
	return id, nil
}

// newIdentity makes a key and a certificate signed by authority, or self-signed if authority is nil.
func newIdentity(template *x509.Certificate, authority *identity) (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits)); err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	template.NotBefore = time.Now().Add(-clockSkew)
	template.NotAfter = template.NotBefore.Add(validity)
	if authority == nil {
		authority = &identity{certificate: template, key: key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, authority.certificate, key.Public(), authority.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate: %w", err)
	}
	return encode(der, key)
}

func encode(der []byte, key *ecdsa.PrivateKey) (*identity, error) {
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse the certificate: %w", err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the key: %w", err)
	}
	return &identity{
		certificate:    certificate,
		key:            key,
		certificatePEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		keyPEM:         pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
	}, nil
}

// httpClient returns a client that trusts the lab's servers and uses no proxy.
func (p *pki) httpClient() *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(p.authority.certificate)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}}
}

// writeCertificates writes the files that the components read. The servers' key also signs service account tokens.
func (l *Lab) writeCertificates() error {
	var errs []error
	toKubelets, err := l.pki.client(apiServerUser)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"ca.crt":     l.pki.authority.certificatePEM,
		"server.crt": l.pki.server.certificatePEM,
		"server.key": l.pki.server.keyPEM,

		"kubelet-client.crt": toKubelets.certificatePEM,
		"kubelet-client.key": toKubelets.keyPEM,
	} {
		errs = append(errs, os.WriteFile(l.Path(name), content, 0o600))
	}
	for _, u := range []user{adminUser, controllersUser, schedulerUser, kwokUser} {
		errs = append(errs, l.writeKubeconfig(u))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write certificates: %w", err)
	}
	return nil
}
