package kube

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
)

// A function that was frozen may find its connection dead, and nothing says so: what it sends is lost. Its timers may have stopped too, so
// the first health check may come pingAfter after the function continues. A drain cannot wait for that: see closeSilent.
const (
	// dialTimeout bounds the opening of a connection. net.Dialer shares it out among the addresses of the API server. EKS has two or more,
	// and one that is gone takes half of it. A shorter one would give up on a lost packet, which is sent again after a second.
	dialTimeout = 5 * time.Second
	// pingAfter is how long nothing may come over a connection before its health is checked. client-go waits 30 s, and a renewal of the
	// Lease would be lost meanwhile. Sooner would cost a packet more often, while watches are quiet.
	pingAfter = 5 * time.Second
	// pingTimeout is how long the answer may take before the connection is closed. client-go waits 15 s. The answer needs no work of the
	// server, but a function with little CPU time may read it late.
	pingTimeout = 3 * time.Second
)

// connections are the open connections to the API server.
type connections struct {
	dial  func(ctx context.Context, network, address string) (net.Conn, error)
	mutex sync.Mutex
	open  map[*connection]struct{}
}

// newConnections makes the config open its connections through it, and check their health.
func newConnections(config *rest.Config) *connections {
	c := &connections{dial: config.Dial, open: map[*connection]struct{}{}}
	if c.dial == nil {
		c.dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	if config.Transport == nil {
		config.Dial = c.DialContext
		config.WrapTransport = transport.Wrappers(withPings, config.WrapTransport)
	}
	return c
}

// withPings makes a transport of client-go check the health of its HTTP/2 connections sooner. client-go itself reads these times from the
// environment only. This transport is no other client's: its dialer is ours.
func withPings(t http.RoundTripper) http.RoundTripper {
	for base := t; ; {
		switch inner := base.(type) {
		case *http.Transport:
			inner.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout}
			return t
		case utilnet.RoundTripperWrapper:
			base = inner.WrappedRoundTripper()
		default:
			return t
		}
	}
}

// DialContext opens a connection.
func (c *connections) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	opened := &connection{Conn: conn, of: c, at: time.Now()}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.open[opened] = struct{}{}
	return opened, nil
}

// closeSilent closes the connections over which nothing came since then. Requests that still wait there fail, and the next ones open
// another connection.
func (c *connections) closeSilent(since time.Time) {
	c.mutex.Lock()
	var silent []*connection
	for conn := range c.open {
		if !conn.lastRead().After(since) {
			silent = append(silent, conn)
		}
	}
	c.mutex.Unlock()
	for _, conn := range silent {
		_ = conn.Close()
	}
}

// connection is one of them.
type connection struct {
	net.Conn
	of   *connections
	at   time.Time    // when it was opened
	read atomic.Int64 // when something came last: nanoseconds since then
}

func (c *connection) lastRead() time.Time { return c.at.Add(time.Duration(c.read.Load())) }

func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.read.Store(int64(time.Since(c.at)))
	}
	return n, err
}

func (c *connection) Close() error {
	c.of.mutex.Lock()
	delete(c.of.open, c)
	c.of.mutex.Unlock()
	return c.Conn.Close()
}
