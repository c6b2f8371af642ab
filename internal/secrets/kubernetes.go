package secrets

import (
	"context"
	"fmt"
	"quiesce/internal/escort"
)

// Ref names two keys of a Kubernetes Secret.
type Ref struct {
	Namespace, Name      string
	UserKey, PasswordKey string
}

// FromKubernetes yields what a Secret holds; after a refusal, the Secret is read again, as it may just have changed.
func FromKubernetes(get func(ctx context.Context, namespace, name string) (map[string][]byte, error), ref Ref) Source {
	now := func(ctx context.Context) (escort.Login, bool, error) {
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
	return inOrder(now, now)
}
