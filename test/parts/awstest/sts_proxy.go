package awstest

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
)

// stsHost is the host that every EKS token of the region names.
const stsHost = "sts." + Region + ".amazonaws.com"

// stsProxy is an HTTP CONNECT proxy to one host only, for which it answers itself. Verifiers of EKS tokens call STS by its real
// name, so only a proxy can answer without a change of the token.
type stsProxy struct {
	front   endpoint // takes CONNECT
	sts     *http.Server
	tunnels *tunnels
	folder  string
}

// STSProxy returns the URL of a proxy (HTTPS_PROXY) that answers for STS and rejects all other hosts.
func (s *Server) STSProxy() string { return s.proxy.front.url() }

// STSCAFile returns the PEM file of the authority (SSL_CERT_FILE) that signed the certificate of the proxy's STS.
func (s *Server) STSCAFile() string { return filepath.Join(s.proxy.folder, "ca.pem") }

func startSTSProxy(sts http.Handler) (*stsProxy, error) {
	certificate, authority, err := issue(stsHost)
	if err != nil {
		return nil, err
	}
	p := &stsProxy{tunnels: newTunnels()}
	p.sts = &http.Server{
		Handler:           sts,
		ReadHeaderTimeout: headerTimeout,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	}
	if p.folder, err = writeAuthority(authority); err != nil {
		return nil, err
	}
	if p.front, err = listen(http.HandlerFunc(p.connect)); err != nil {
		_ = os.RemoveAll(p.folder)
		return nil, err
	}
	go func() { _ = p.sts.ServeTLS(p.tunnels, "", "") }() // ends with close, which causes the only error
	return p, nil
}

func writeAuthority(pem []byte) (folder string, err error) {
	if folder, err = os.MkdirTemp("", "awstest-"); err != nil {
		return "", fmt.Errorf("make a folder for the test authority: %w", err)
	}
	if err = os.WriteFile(filepath.Join(folder, "ca.pem"), pem, 0o600); err != nil {
		_ = os.RemoveAll(folder)
		return "", fmt.Errorf("write the test authority: %w", err)
	}
	return folder, nil
}

func (p *stsProxy) close() {
	p.front.close()
	_ = p.sts.Close()
	_ = p.tunnels.Close()
	_ = os.RemoveAll(p.folder)
}

// connect turns a CONNECT request into a connection to the STS server.
func (p *stsProxy) connect(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect || r.Host != stsHost+":443" {
		http.Error(w, "this proxy leads only to "+stsHost, http.StatusForbidden)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		_ = conn.Close()
		return
	}
	p.tunnels.add(conn)
}

// tunnels is a listener whose connections come from the proxy.
type tunnels struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newTunnels() *tunnels {
	t := &tunnels{conns: make(chan net.Conn), closed: make(chan struct{})}
	t.close = sync.OnceFunc(func() { close(t.closed) })
	return t
}

func (t *tunnels) add(c net.Conn) {
	select {
	case t.conns <- c:
	case <-t.closed:
		_ = c.Close()
	}
}

// Accept waits for the next connection.
func (t *tunnels) Accept() (net.Conn, error) {
	select {
	case c := <-t.conns:
		return c, nil
	case <-t.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (t *tunnels) Close() error {
	t.close()
	return nil
}

// Addr returns a placeholder: the proxy has the address.
func (t *tunnels) Addr() net.Addr { return &net.UnixAddr{Name: "tunnels", Net: "proxy"} }
