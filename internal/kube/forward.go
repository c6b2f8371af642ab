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
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"

	// Not apimachinery's package of this name, whose IsUpgradeFailure does not know these dialers' errors.
	"k8s.io/streaming/pkg/httpstream"
)

const (
	// reasonTimeout is how long the reason for the end of a tunnel may come after the end itself. They are sent together, on
	// two streams; whoever reads to the end waits this long if there is no reason and the kubelet never says so.
	reasonTimeout = time.Second
	// maxReasonBytes is more of a reason than anybody reads.
	maxReasonBytes = 1 << 10
)

// Forward connects to a port of a pod by way of the API server and the pod's kubelet, as kubectl port-forward does, but
// without a port of our own. Deadlines of the connection are kept. What the kubelet says of the connection's end, such as
// that nothing listens on the port, is the error of the read or write that meets the end.
func (c *Client) Forward(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := withContext(ctx, func() (net.Conn, error) { return c.dialPod(ctx, namespace, pod, port) })
	if err != nil {
		return nil, fmt.Errorf("forward port %d of pod %s/%s: %w", port, namespace, pod, err)
	}
	return conn, nil
}

// withContext gives up with the context, which not all of client-go's dialing does. What is opened after that is closed.
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
		return nil, fmt.Errorf("the server speaks %q", protocol)
	}
	conn, err := newTunnel(connection, port)
	if err != nil {
		_ = connection.Close()
		return nil, err
	}
	return conn, nil
}

// newDialer tries a websocket first and falls back to SPDY, for servers and proxies that know only one of them
// (https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4006-transition-spdy-to-websockets).
func (c *Client) newDialer(ctx context.Context, target *url.URL) (httpstream.Dialer, error) {
	config := rest.CopyConfig(c.config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return contextTransport{ctx, next} })
	websocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(target, config)
	if err != nil {
		return nil, fmt.Errorf("make a websocket dialer: %w", err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, fmt.Errorf("make a SPDY dialer: %w", err)
	}
	fallback := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)
	return portforward.NewFallbackDialerForStreaming(websocket, fallback, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// contextTransport gives requests a context, which client-go's dialers don't take.
type contextTransport struct {
	ctx  context.Context
	next http.RoundTripper
}

func (b contextTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	return b.next.RoundTrip(request.WithContext(b.ctx))
}

// tunnel is the near end of a pipe, for its deadlines, which streams lack. Two goroutines carry what goes through the pipe
// to and from the pod; each ends the other.
type tunnel struct {
	net.Conn
	connection              httpstream.Connection
	dataStream, errorStream httpstream.Stream
	ended                   chan struct{}
	err                     error // nil until ended, and after that where no reason was given
}

// newTunnel makes the two streams of a forwarded connection. The one for errors comes first, and is not written to:
// https://github.com/kubernetes/client-go/blob/master/tools/portforward/portforward.go.
func newTunnel(connection httpstream.Connection, port int) (*tunnel, error) {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	reason, err := connection.CreateStream(headers)
	if err != nil {
		return nil, fmt.Errorf("open the stream of errors: %w", err)
	}
	_ = reason.Close()
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := connection.CreateStream(headers)
	if err != nil {
		return nil, fmt.Errorf("open the stream of data: %w", err)
	}
	near, far := net.Pipe()
	t := &tunnel{Conn: near, connection: connection, dataStream: data, errorStream: reason, ended: make(chan struct{})}
	go t.send(far)
	go t.receive(far)
	return t, nil
}

// Read tells why the tunnel ended, where that is known.
func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	return n, t.withReason(err)
}

// Write tells it too: a client that speaks first may meet the end here.
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
		return cmp.Or(t.err, err)
	default:
		return err // it was closed on our side
	}
}

// send ends when either end of the pipe is closed, and takes the connection with it.
func (t *tunnel) send(far net.Conn) {
	_, _ = io.Copy(t.dataStream, far)
	_ = t.dataStream.Close()
	_ = t.connection.Close()
}

// receive ends with the stream of data, and closes the pipe for the reason that the kubelet gives.
func (t *tunnel) receive(far net.Conn) {
	reason := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(io.LimitReader(t.errorStream, maxReasonBytes))
		reason <- string(text)
	}()
	_, _ = io.Copy(far, t.dataStream)
	_ = t.dataStream.Reset() // what is left of it must not hold up the other stream
	select {
	case text := <-reason:
		if text != "" {
			t.err = errors.New(text)
		}
	case <-time.After(reasonTimeout):
	}
	close(t.ended)
	_ = far.Close()
}
