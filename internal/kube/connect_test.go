package kube

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
)

func TestConnector_FirstAttemptFails_RetriesThenReuses(t *testing.T) {
	asked := 0
	connect := Connector(func(context.Context) (*rest.Config, error) {
		if asked++; asked == 1 {
			return nil, errors.New("throttled")
		}
		return &rest.Config{Host: "https://127.0.0.1:1"}, nil
	}, false)
	_, err := connect(t.Context())
	require.ErrorContains(t, err, "throttled")
	first, err := connect(t.Context())
	require.NoError(t, err)
	second, err := connect(t.Context())
	require.NoError(t, err)
	require.Same(t, first, second)
	require.Equal(t, 2, asked)
}
