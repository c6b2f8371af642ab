package kube

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// open opens the connection, and lets the API server check the function's token, while AWS still answers. Later requests do not wait for
// either. It reads one Lease at most: that is allowed and cheap. The server ignores the limit of a list from its watch cache, so this one is
// not from there. Its answer does not matter.
func (c *Client) open(ctx context.Context) {
	options := metav1.ListOptions{Limit: 1}
	_ = c.coordination.Get().Namespace(leaseNamespace).Resource("leases").VersionedParams(&options, params).
		MaxRetries(0).Timeout(callTimeout).Do(ctx).Error()
}

// handshakeWait is how long a request waits for the connection that another one opens. It may hang at one address of the API server, and a
// connection of its own may lead to another. A handshake takes 0.2 s on a small function.
const handshakeWait = 2 * time.Second

// oneHandshake lets one request at a time open a connection, and the others wait for it. HTTP/2 needs one connection, but net/http opens one
// for each request that comes before there is any, and closes the rest. Each costs both sides a TLS handshake, which a small function
// feels. After the first connection it does nothing.
type oneHandshake struct {
	next    http.RoundTripper
	turn    chan struct{} // full while a request opens a connection
	opened  chan struct{} // closed when there was a connection
	opening sync.Once
}

func newOneHandshake(next http.RoundTripper) *oneHandshake {
	return &oneHandshake{next: next, turn: make(chan struct{}, 1), opened: make(chan struct{})}
}

func (o *oneHandshake) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-o.opened:
		return o.next.RoundTrip(r)
	default:
	}
	select {
	case <-o.opened:
		return o.next.RoundTrip(r)
	case <-time.After(handshakeWait):
		return o.next.RoundTrip(r)
	case <-r.Context().Done():
		if r.Body != nil {
			r.Body.Close() // as a RoundTripper must
		}
		return nil, context.Cause(r.Context())
	case o.turn <- struct{}{}:
	}
	defer func() { <-o.turn }()
	traced := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { o.open() }})
	answer, err := o.next.RoundTrip(r.WithContext(traced))
	if err == nil { // a transport need not tell of its connections
		o.open()
	}
	return answer, err
}

func (o *oneHandshake) open() { o.opening.Do(func() { close(o.opened) }) }
