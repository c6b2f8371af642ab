package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// Secret returns the data of a Secret.
func (c *Client) Secret(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	secret := &corev1.Secret{}
	err := c.core.Get().Namespace(namespace).Resource("secrets").Name(name).Timeout(callTimeout).Do(ctx).Into(secret)
	if err != nil {
		return nil, fmt.Errorf("get secret %s/%s: %w", namespace, name, err)
	}
	return secret.Data, nil
}
