package kube

import (
	"io"
	"net/http"
)

// maxErrorBody bounds the answer of a request that failed. client-go reads it whole, and an admission webhook can make it as
// large as it likes.
const maxErrorBody = 1 << 20

// errorLimiter bounds the answers of requests that failed.
type errorLimiter struct{ next http.RoundTripper }

func (l errorLimiter) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := l.next.RoundTrip(r)
	if err == nil && response.StatusCode >= http.StatusBadRequest {
		response.Body = limitedBody{io.LimitReader(response.Body, maxErrorBody), response.Body}
	}
	return response, err
}

type limitedBody struct {
	io.Reader
	io.Closer
}
