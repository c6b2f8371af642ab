package secrets

import (
	"context"
	"fmt"

	"quiesce/internal/escort"
)

// Getter returns the data of a Kubernetes Secret.
type Getter func(ctx context.Context, namespace, name string) (map[string][]byte, error)

// FromKubernetes yields the login in a Secret. After a rejection it reads the Secret again, because it may just have changed.
func FromKubernetes(get Getter, namespace, name string, keys Keys) Source {
	read := func(ctx context.Context) (escort.Login, bool, error) {
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
	return inOrder(read, read)
}
