package kube

import (
	"context"
	"sync"

	"k8s.io/client-go/rest"
)

// Connector makes a client when one is first asked for, and keeps it from then on: a function is started without the network,
// and its connection outlives its invocations. A failure is not kept.
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
