package kube

import (
	"io"
	"net/http"
)

// maxErrorBody bounds the answer of a request that did not succeed. client-go reads it whole, also that of a redirect, which it does not
// follow. An admission webhook and a pod behind the API server's proxy can make it as large as they like.
const maxErrorBody = 1 << 20

// errorLimiter bounds the answers of requests that did not succeed.
type errorLimiter struct{ next http.RoundTripper }

func (l errorLimiter) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := l.next.RoundTrip(r)
	if err == nil && response.StatusCode >= http.StatusMultipleChoices {
		response.Body = limitedBody{io.LimitReader(response.Body, maxErrorBody), response.Body}
	}
	return response, err
}

type limitedBody struct {
	io.Reader
	io.Closer
}
