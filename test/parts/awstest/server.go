package awstest

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// Region is the only region.
	Region = "eu-west-1"
	// Account is the number of the only account.
	Account = "111122223333"

	// headerTimeout closes a connection that sends no request. It is generous, since tests share slow machines.
	headerTimeout = 30 * time.Second
)

// Server is the AWS APIs of one account in one region. It is safe for concurrent use.
type Server struct {
	api   endpoint
	proxy *stsProxy

	mu       sync.Mutex
	account  *account
	sessions map[string]Session // by access key ID
	faults   []*fault
	calls    []Call
}

// Start starts the APIs and the STS proxy on free ports of the loopback interface.
func Start() (*Server, error) {
	s := &Server{account: newAccount(), sessions: map[string]Session{}}
	api, err := listen(s.handler(endpointServices))
	if err != nil {
		return nil, fmt.Errorf("start the AWS APIs: %w", err)
	}
	s.api = api
	if s.proxy, err = startSTSProxy(s.handler(stsServices)); err != nil {
		s.api.close()
		return nil, fmt.Errorf("start the STS proxy: %w", err)
	}
	return s, nil
}

// Close closes all connections and removes the file of the test CA.
func (s *Server) Close() {
	s.proxy.close()
	s.api.close()
}

// URL returns the endpoint of all services, without a slash at the end.
func (s *Server) URL() string { return s.api.url() }

// endpoint is an HTTP server on a free port of the loopback interface.
type endpoint struct {
	server   *http.Server
	listener net.Listener
}

func listen(h http.Handler) (endpoint, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return endpoint{}, fmt.Errorf("listen on loopback: %w", err)
	}
	e := endpoint{server: &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout}, listener: l}
	go func() { _ = e.server.Serve(l) }() // ends with close, which causes the only error
	return e, nil
}

func (e endpoint) url() string { return "http://" + e.listener.Addr().String() }

func (e endpoint) close() { _ = e.server.Close() }
