package secrets

import (
	"context"
	"fmt"
	"time"

	"quiesce/internal/escort"
)

// kubernetesTimeout limits one read of a Secret. The API server answers within tens of milliseconds. One that does not must leave time
// to evict the pooler without a console.
const kubernetesTimeout = 5 * time.Second

// Getter returns the data of a Kubernetes Secret.
type Getter func(ctx context.Context, namespace, name string) (map[string][]byte, error)

// FromKubernetes yields the login in a Secret. After a rejection it reads the Secret again, because it may just have changed.
func FromKubernetes(get Getter, namespace, name string, keys Keys) Source {
	once := func(ctx context.Context) (escort.Login, bool, error) {
		ctx, cancel := context.WithTimeout(ctx, kubernetesTimeout)
		defer cancel()
		data, err := get(ctx, namespace, name)
		if err != nil {
			return escort.Login{}, false, err
		}
		login, err := keys.login(func(key string) string { return string(data[key]) })
		if err != nil {
			return escort.Login{}, false, fmt.Errorf("secret %s/%s: %w", namespace, name, err)
		}
		return login, true, nil
	}
	return inOrder([]read{once, once})
}
