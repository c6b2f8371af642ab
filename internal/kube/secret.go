package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"quiesce/internal/escort"
)

// Secret returns the data of a Secret. Its error is an escort.Temporary unless the Secret is missing, or the permission.
func (c *Client) Secret(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	secret := &corev1.Secret{}
	err := c.core.Get().Namespace(namespace).Resource("secrets").Name(name).Timeout(callTimeout).Do(ctx).Into(secret)
	if err != nil {
		return nil, fmt.Errorf("get secret %s/%s: %w", namespace, name, temporary(err))
	}
	return secret.Data, nil
}

// temporary marks an error of a request that may not come again: there was no answer, or that of a server that is overloaded or replaced.
func temporary(err error) error {
	switch {
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err), apierrors.IsInvalid(err), apierrors.IsConflict(err):
		return err
	}
	return escort.Temporary{Err: err}
}
