package patroni

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Allow gives functions the permissions to move this cluster's primary, as a person would: a copy of infra/rbac-postgres-patroni.yaml with
// the names changed. root is the repository's.
func (c *Cluster) Allow(ctx context.Context, root string) error {
	text, err := os.ReadFile(filepath.Join(root, "infra", "rbac-postgres-patroni.yaml"))
	if err != nil {
		return fmt.Errorf("allow switchovers: %w", err)
	}
	members, err := c.Members(ctx)
	if err != nil {
		return err
	}
	proxies := make([]string, len(members))
	for i, m := range members {
		proxies[i] = fmt.Sprintf("%q", m.Name+":8008")
	}
	changed := strings.NewReplacer(
		`["demo-0:8008", "demo-1:8008"]`, "["+strings.Join(proxies, ", ")+"]",
		"quiesce-postgres-demo", "quiesce-postgres-"+c.Scope(), "demo", c.Scope(), "namespace: db", "namespace: "+c.options.Namespace,
	).Replace(string(text))
	file := c.lab.Path("permissions-" + c.options.Namespace + ".yaml")
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		return fmt.Errorf("allow switchovers: %w", err)
	}
	return c.lab.Apply(ctx, file)
}
