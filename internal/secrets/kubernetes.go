package secrets

import (
	"context"
	"fmt"

	"quiesce/internal/escort"
)

// Ref names a Kubernetes Secret and two of its keys.
type Ref struct {
	Namespace, Name      string
	UserKey, PasswordKey string
}

// FromKubernetes yields the login in a Secret. After a rejection it reads the Secret again, because it may just have changed.
func FromKubernetes(get func(ctx context.Context, namespace, name string) (map[string][]byte, error), ref Ref) Source {
	read := func(ctx context.Context) (escort.Login, bool, error) {
		data, err := get(ctx, ref.Namespace, ref.Name)
		if err != nil {
			return escort.Login{}, false, err
		}
		login, err := Keys{ref.UserKey, ref.PasswordKey}.login(func(key string) string { return string(data[key]) })
		if err != nil {
			return escort.Login{}, false, fmt.Errorf("secret %s/%s: %w", ref.Namespace, ref.Name, err)
		}
		return login, true, nil
	}
	return inOrder(read, read)
}
