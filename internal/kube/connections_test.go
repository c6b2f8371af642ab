package kube

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"quiesce/internal/termination"
	"quiesce/test/parts/bubble"
)

// wireServer serves a Lease over connections that can break silently, as those to an API server whose address disappears.
type wireServer struct {
	*leaseServer
	accepted chan net.Conn
	closing  sync.Once
	mutex    sync.Mutex
	opened   []*wireConn
	// behaviors at the next requests: "silent": no answer comes; "late": it is done a second after its client gave up; "slow": it is done after
	// slowness; else normal
	behaviors []string
}

// slowness is longer than the time of the first request, and shorter than that of all.
const slowness = acquireTimeout + 500*time.Millisecond

// wireConn is the client's end of a connection.
type wireConn struct {
	net.Conn
	dead atomic.Bool
}

// Read fails as that of a socket does.
func (c *wireConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = net.ErrClosed
	}
	return n, err
}

func (c *wireConn) Write(b []byte) (int, error) {
	if c.dead.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (s *wireServer) Accept() (net.Conn, error) {
	if c, open := <-s.accepted; open {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (s *wireServer) Close() error {
	s.closing.Do(func() { close(s.accepted) })
	return nil
}

func (s *wireServer) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

func (s *wireServer) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	conn := &wireConn{Conn: near}
	s.mutex.Lock()
	s.opened = append(s.opened, conn)
	s.mutex.Unlock()
	s.accepted <- far
	return conn, nil
}

// cut drops from now on what is sent over the connections that are open, and returns how many there are.
func (s *wireServer) cut() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, c := range s.opened {
		c.dead.Store(true)
	}
	return len(s.opened)
}

func (s *wireServer) connections() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return len(s.opened)
}

func (s *wireServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	gone := r.Context().Done()
	switch s.nextBehavior() {
	case "silent":
		<-gone
		return
	case "late":
		r = withoutClient(r)
		<-gone
		time.Sleep(time.Second)
	case "slow":
		r = withoutClient(r)
		time.Sleep(slowness)
	}
	if r.Method == http.MethodGet {
		r.Body = nil
	}
	answer, err := s.RoundTrip(r)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", answer.Header.Get("Content-Type"))
	w.WriteHeader(answer.StatusCode)
	_, _ = io.Copy(w, answer.Body)
}

// withoutClient returns the request as one that is served though its client is gone.
func withoutClient(r *http.Request) *http.Request {
	body, _ := io.ReadAll(r.Body)
	return httptest.NewRequest(r.Method, r.URL.String(), bytes.NewReader(body))
}

func (s *wireServer) nextBehavior() (next string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.behaviors) > 0 {
		next, s.behaviors = s.behaviors[0], s.behaviors[1:]
	}
	return next
}

// overWire runs a test in simulated time, with a client that has one warm connection.
func overWire(t *testing.T, test func(t *testing.T, s *wireServer, c *Client)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		s := &wireServer{leaseServer: &leaseServer{}, accepted: make(chan net.Conn)}
		server := httptest.NewUnstartedServer(s)
		_ = server.Listener.Close()
		server.Listener, server.EnableHTTP2 = s, true
		server.StartTLS()
		c, err := New(&rest.Config{Host: "https://api.test", Dial: s.dial, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
		require.NoError(t, err)
		defer func() {
			c.connections.closeSilent(time.Now().Add(time.Hour))
			server.Close()
		}()
		_, err = c.getLease(t.Context(), "i-1")
		require.True(t, apierrors.IsNotFound(err))
		require.Equal(t, 1, s.connections())
		test(t, s, c)
	})
}

// The function was frozen while the API server's address went away: the warm connection is dead, and nothing says so.
func TestAcquireLease_WarmConnectionDead_AcquiredOverAnother(t *testing.T) {
	overWire(t, func(t *testing.T, s *wireServer, c *Client) {
		s.cut()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		beside := make(chan error, 1)
		go func() {
			_, err := c.getLease(ctx, "i-1")
			if apierrors.IsNotFound(err) {
				err = nil
			}
			beside <- err
		}()
		began := time.Now()
		l, err := c.AcquireLease(ctx, "i-1", termination.Acquisition{Received: began})
		require.NoError(t, err)
		require.NotNil(t, l)
		defer func() { require.NoError(t, l.Release(termination.KeepNothing)) }()
		require.LessOrEqual(t, time.Since(began), 4*time.Second)
		require.NoError(t, <-beside, "a read on that connection is repeated")
		require.LessOrEqual(t, time.Since(began), 5*time.Second)
	})
}

// Nothing bounds this request to three seconds. The health check of its connection ends it, and client-go repeats it.
func TestRead_WarmConnectionDead_AnsweredOverAnother(t *testing.T) {
	overWire(t, func(t *testing.T, s *wireServer, c *Client) {
		s.cut()
		began := time.Now()
		_, err := c.getLease(t.Context(), "i-1")
		require.True(t, apierrors.IsNotFound(err), "%v", err)
		require.LessOrEqual(t, time.Since(began), pingAfter+pingTimeout+2*time.Second)
		require.Equal(t, 2, s.connections())
	})
}

// The API server is alive and slow. The connection stays, and with it what others asked for.
func TestAcquireLease_AnswerHangs_ConnectionInUseStays(t *testing.T) {
	overWire(t, func(t *testing.T, s *wireServer, c *Client) {
		s.behaviors = []string{"silent"}
		time.AfterFunc(2*time.Second, func() { _, _ = c.getLease(t.Context(), "i-1") })
		began := time.Now()
		l, err := c.AcquireLease(t.Context(), "i-1", termination.Acquisition{Received: began})
		require.NoError(t, err)
		require.NotNil(t, l)
		defer func() { require.NoError(t, l.Release(termination.KeepNothing)) }()
		require.Equal(t, acquireTimeout, time.Since(began))
		require.Equal(t, 1, s.connections())
	})
}

// What was asked for is done after the time for it. To another holder the Lease would be held until it expires. A server that is slow with
// each request is waited for.
func TestAcquireLease_DoneTooLate_AcquiredByTheSameHolder(t *testing.T) {
	for name, behaviors := range map[string][]string{"after the client gave up": {"late", "slow"}, "by a slow server": {"slow", "slow"}} {
		t.Run(name, func(t *testing.T) {
			overWire(t, func(t *testing.T, s *wireServer, c *Client) {
				s.behaviors = behaviors
				began := time.Now()
				l, err := c.AcquireLease(t.Context(), "i-1", termination.Acquisition{Received: began})
				require.NoError(t, err)
				require.NotNil(t, l)
				took := time.Since(began)
				require.GreaterOrEqual(t, took, acquireTimeout+slowness)
				require.LessOrEqual(t, took, acquireTimeout+slowness+time.Second, "client-go repeats a read whose connection is just closed after a second")
				require.NoError(t, l.Release(termination.KeepNothing))
			})
		})
	}
}
