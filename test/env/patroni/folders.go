package patroni

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// makeFolders makes the folder of a local volume on all nodes of the group. Anybody may write there: PostgreSQL does not run as root.
func (c *Cluster) makeFolders(ctx context.Context) error {
	if c.options.Claim != LocalClaim {
		return nil
	}
	list, err := c.lab.Client().CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: "group=" + c.options.Group})
	if err != nil {
		return err
	}
	for _, node := range list.Items {
		mkdir, err := c.lab.Inside(ctx, node.Name, "mkdir", "-p", "-m", "777", c.folder())
		if err != nil {
			return err
		}
		if said, err := mkdir.CombinedOutput(); err != nil {
			return fmt.Errorf("make a folder on %s: %w\n%s", node.Name, err, said)
		}
	}
	return nil
}

func (c *Cluster) folder() string { return "/var/lib/" + c.options.Namespace }
