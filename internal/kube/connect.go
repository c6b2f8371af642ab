package kube

import (
	"context"
	"sync"

	"k8s.io/client-go/rest"
)

// Connector returns a function that creates a client at its first call and returns the same client from then on. So the
// Lambda function starts without the network, and the connection outlives an invocation. An error is not kept: the next call
// tries again.
func Connector(access func(context.Context) (*rest.Config, error)) func(context.Context) (*Client, error) {
	var mu sync.Mutex
	var connected *Client
	return func(ctx context.Context) (*Client, error) {
		mu.Lock()
		defer mu.Unlock()
		if connected != nil {
			return connected, nil
		}
		config, err := access(ctx)
		if err != nil {
			return nil, err
		}
		connected, err = New(config)
		return connected, err
	}
}
