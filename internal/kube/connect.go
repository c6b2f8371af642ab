package kube

import (
	"context"
	"sync"

	"k8s.io/client-go/rest"
)

// Connector returns a function that creates a client at its first call and returns the same client from then on. So the
// Lambda function starts without the network, and the connection outlives an invocation. An error is not kept: the next call
// tries again. A client whose API server has moved is replaced: see movedNoter.
//
// With atOnce, the connection opens while AWS still answers. That costs a request. It helps where the API server's address is configured:
// where AWS is asked for it, the first request of a drain comes as soon.
func Connector(access func(context.Context) (*rest.Config, error), atOnce bool) func(context.Context) (*Client, error) {
	var mu sync.Mutex
	var connected *Client
	return func(ctx context.Context) (*Client, error) {
		mu.Lock()
		defer mu.Unlock()
		if connected != nil && !connected.moved.Load() {
			return connected, nil
		}
		config, err := access(ctx)
		if err != nil {
			return nil, err
		}
		made, err := New(config)
		if err != nil {
			return nil, err
		}
		connected = made
		if atOnce {
			go connected.open(context.WithoutCancel(ctx))
		}
		return connected, nil
	}
}
