package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"

	// Not apimachinery's package of this name, whose IsUpgradeFailure does not know these dialers' errors.
	"k8s.io/streaming/pkg/httpstream"
)

const (
	// reasonTimeout bounds the wait for the reason after the end of a tunnel. The kubelet sends both at once, on two streams. A
	// reader waits this long at the end if the kubelet sends no reason and does not close the stream.
	reasonTimeout = time.Second
	// maxReasonBytes bounds the reason: more text is of no use in an error.
	maxReasonBytes = 1 << 10
)

// Forward connects to a port of a pod through the API server and the pod's kubelet, as `kubectl port-forward` does, but
// without a local port. Deadlines of the connection work. If the kubelet gives a reason for the end of the connection, such
// as that nothing listens on the port, the next Read or Write returns it as its error.
func (c *Client) Forward(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := withContext(ctx, func() (net.Conn, error) { return c.dialPod(ctx, namespace, pod, port) })
	if errors.Is(err, syscall.ECONNREFUSED) { // by the API server: in the pod something may listen
		err = errors.New(err.Error())
	}
	if err != nil {
		return nil, fmt.Errorf("forward port %d of pod %s/%s: %w", port, namespace, pod, withPermission(err))
	}
	return conn, nil
}

// withContext returns when open does or when ctx ends; not all dialing in client-go respects a context. A connection that is
// opened too late is closed.
func withContext(ctx context.Context, open func() (net.Conn, error)) (net.Conn, error) {
	type outcome struct {
		conn net.Conn
		err  error
	}
	opened := make(chan outcome)
	go func() {
		conn, err := open()
		select {
		case opened <- outcome{conn, err}:
		case <-ctx.Done():
			if err == nil {
				_ = conn.Close()
			}
		}
	}()
	select {
	case o := <-opened:
		return o.conn, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *Client) dialPod(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
	dialer, err := c.newDialer(ctx, c.core.Post().Namespace(namespace).Resource("pods").Name(pod).SubResource("portforward").URL())
	if err != nil {
		return nil, err
	}
	connection, protocol, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, err
	}
	if protocol != portforward.PortForwardProtocolV1Name {
		_ = connection.Close()
		return nil, fmt.Errorf("server uses protocol %q, not %q", protocol, portforward.PortForwardProtocolV1Name)
	}
	conn, err := newTunnel(connection, port)
	if err != nil {
		_ = connection.Close()
		return nil, err
	}
	return conn, nil
}

// newDialer returns a dialer that tries a websocket first and then SPDY, since some servers and proxies support only one of
// them (https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4006-transition-spdy-to-websockets).
func (c *Client) newDialer(ctx context.Context, target *url.URL) (httpstream.Dialer, error) {
	config := rest.CopyConfig(c.config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return contextTransport{ctx, next} })
	websocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(target, config)
	if err != nil {
		return nil, fmt.Errorf("create a websocket dialer: %w", err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, fmt.Errorf("create a SPDY dialer: %w", err)
	}
	fallback := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)
	return portforward.NewFallbackDialerForStreaming(websocket, fallback, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// contextTransport adds a context to requests, because client-go's dialers take none.
type contextTransport struct {
	ctx  context.Context
	next http.RoundTripper
}

func (b contextTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	return b.next.RoundTrip(request.WithContext(b.ctx))
}

// tunnel is the near end of a pipe, because a pipe has deadlines and streams have none. Two goroutines copy between the pipe
// and the pod. When one ends, the other ends too.
type tunnel struct {
	net.Conn
	connection              httpstream.Connection
	dataStream, errorStream httpstream.Stream
	ended                   chan struct{}
	reason                  error // the kubelet's reason; read it only after ended is closed
}

// newTunnel creates the two streams of a forwarded connection. The stream for errors comes first, and the client does not write
// to it: https://github.com/kubernetes/client-go/blob/master/tools/portforward/portforward.go.
func newTunnel(connection httpstream.Connection, port int) (*tunnel, error) {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	errorStream, err := connection.CreateStream(headers)
	if err != nil {
		return nil, fmt.Errorf("open the error stream: %w", err)
	}
	_ = errorStream.Close()
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	dataStream, err := connection.CreateStream(headers)
	if err != nil {
		return nil, fmt.Errorf("open the data stream: %w", err)
	}
	near, far := net.Pipe()
	t := &tunnel{Conn: near, connection: connection, dataStream: dataStream, errorStream: errorStream, ended: make(chan struct{})}
	go t.send(far)
	go t.receive(far)
	return t, nil
}

// refusedError is syscall.ECONNREFUSED with the kubelet's words.
type refusedError struct{ error }

func (refusedError) Unwrap() error { return syscall.ECONNREFUSED }

// reasonOf returns the kubelet's reason. That nothing listens on the port is known by the words only.
func reasonOf(text string) error {
	reason := errors.New(text)
	if strings.Contains(text, syscall.ECONNREFUSED.Error()) {
		return refusedError{reason}
	}
	return reason
}

// Read returns the kubelet's reason as its error if the tunnel has ended and a reason is known.
func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	return n, t.withReason(err)
}

// Write does the same as Read: a client that sends first sees the end here.
func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	return n, t.withReason(err)
}

func (t *tunnel) withReason(err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	select {
	case <-t.ended:
		return cmp.Or(t.reason, err)
	default:
		return err // closed on this side
	}
}

// send copies to the pod until either end of the pipe is closed, then closes the connection.
func (t *tunnel) send(far net.Conn) {
	_, _ = io.Copy(t.dataStream, far)
	_ = t.dataStream.Close()
	_ = t.connection.Close()
}

// receive copies from the pod until the data stream ends, then stores the kubelet's reason and closes the pipe.
func (t *tunnel) receive(far net.Conn) {
	reason := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(io.LimitReader(t.errorStream, maxReasonBytes))
		reason <- string(text)
	}()
	_, _ = io.Copy(far, t.dataStream)
	_ = t.dataStream.Reset() // unread data must not delay the error stream
	select {
	case text := <-reason:
		if text != "" {
			t.reason = reasonOf(text)
		}
	case <-time.After(reasonTimeout):
	}
	close(t.ended)
	_ = far.Close()
}
