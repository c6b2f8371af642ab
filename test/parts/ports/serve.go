package ports

import (
	"net"
	"sync"
	"testing"
)

// Serve accepts connections until the test ends, each with a call of serve, and returns its address. A connection is closed when serve
// returns, and when the test ends, which waits for all calls.
func Serve(t testing.TB, serve func(net.Conn)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	s := &server{serve: serve, open: map[net.Conn]bool{}}
	s.calls.Go(func() { s.accept(listener) })
	t.Cleanup(func() {
		_ = listener.Close()
		s.close()
		s.calls.Wait()
	})
	return listener.Addr().String()
}

type server struct {
	serve func(net.Conn)
	calls sync.WaitGroup

	mutex  sync.Mutex
	open   map[net.Conn]bool
	closed bool
}

func (s *server) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return // the test has ended
		}
		s.calls.Go(func() {
			defer func() { _ = conn.Close() }()
			if s.keep(conn) {
				s.serve(conn)
			}
		})
	}
}

// keep remembers a connection, to close it. It reports whether the test goes on.
func (s *server) keep(conn net.Conn) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.open[conn] = true
	return !s.closed
}

func (s *server) close() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.closed = true
	for conn := range s.open {
		_ = conn.Close()
	}
}
