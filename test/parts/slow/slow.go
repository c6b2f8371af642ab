// Package slow is a TCP proxy that delays as a network does: each answer by one round trip, and each new connection by those of its
// handshakes. Requests arrive at once, so the server's own times are those of the client.
package slow

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// pieceBytes is what is delayed at once.
	pieceBytes = 32 << 10
	// maxPieces bounds the answers that are on their way in one connection: 32 MB.
	maxPieces = 1024
)

// Proxy passes connections on to one server.
type Proxy struct {
	target     string
	roundTrip  time.Duration
	handshakes int
	listener   net.Listener
	ended      sync.WaitGroup

	mu     sync.Mutex
	opened []time.Time
	open   map[net.Conn]bool // nil: the proxy is closed
}

// Start starts a proxy to a server. A new connection waits for this many round trips before its first byte: one for TCP, and one more if
// the server speaks no TLS, but stands for one that does.
func Start(target string, roundTrip time.Duration, handshakes int) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", target, err)
	}
	p := &Proxy{target: target, roundTrip: roundTrip, handshakes: handshakes, listener: l, open: map[net.Conn]bool{}}
	p.ended.Go(p.accept)
	return p, nil
}

// Address returns the host and the port of the proxy.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Opened returns when each connection was opened.
func (p *Proxy) Opened() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]time.Time(nil), p.opened...)
}

// Close ends all connections.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.mu.Lock()
	for conn := range p.open {
		_ = conn.Close()
	}
	p.open = nil
	p.mu.Unlock()
	p.ended.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // the proxy is closed
		}
		now := time.Now()
		p.mu.Lock()
		p.opened = append(p.opened, now)
		p.mu.Unlock()
		p.ended.Go(func() { p.pass(client, now.Add(time.Duration(p.handshakes)*p.roundTrip)) })
	}
}

// keep notes a connection that Close is to end. It reports false if the proxy is closed.
func (p *Proxy) keep(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		return false
	}
	p.open[conn] = true
	return true
}

// end closes a connection.
func (p *Proxy) end(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, conn)
	_ = conn.Close()
}

// pass passes one connection on, from this time on.
func (p *Proxy) pass(client net.Conn, from time.Time) {
	defer p.end(client)
	if !p.keep(client) {
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer p.end(server)
	if !p.keep(server) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() {
		time.Sleep(time.Until(from))
		_, _ = io.Copy(server, client)
		_ = server.(*net.TCPConn).CloseWrite() // the end of one direction
	})
	both.Go(func() {
		p.delay(client, server)
		_ = client.(*net.TCPConn).CloseWrite()
	})
	both.Wait()
}

// piece is a part of an answer, and when it arrives.
type piece struct {
	bytes []byte
	at    time.Time
}

// delay passes answers on, each a round trip after it came.
func (p *Proxy) delay(client io.Writer, server io.Reader) {
	pieces := make(chan piece, maxPieces)
	var writing sync.WaitGroup
	writing.Go(func() {
		var failed error
		for next := range pieces {
			if failed == nil { // else the client is gone, and the rest is for nobody
				time.Sleep(time.Until(next.at))
				_, failed = client.Write(next.bytes)
			}
		}
	})
	for {
		buffer := make([]byte, pieceBytes)
		n, err := server.Read(buffer)
		if n > 0 {
			pieces <- piece{buffer[:n], time.Now().Add(p.roundTrip)}
		}
		if err != nil {
			break
		}
	}
	close(pieces)
	writing.Wait()
}
