// Package cloudnativepg deploys the operator CloudNativePG (https://cloudnative-pg.io) and clusters of it on a lab's real nodes, with
// poolers in front.
package cloudnativepg

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"quiesce/test/env/database"
	"quiesce/test/parts/lab"
	"quiesce/test/parts/tools"
)

const (
	// Image is the image of the operator, of the instances and of their poolers.
	Image = "localhost/cloudnative-pg:17"

	module    = "github.com/cloudnative-pg/cloudnative-pg"
	version   = "1.30.0"
	namespace = "cnpg-system"
)

// operatorLabels are the labels of the operator's pod.
var operatorLabels = labels.Set{"app.kubernetes.io/name": "cloudnative-pg"}

// Install installs the operator on this node, and waits until it answers. root is the repository's.
func Install(ctx context.Context, l *lab.Lab, root, node string) error {
	manifest, err := operatorManifest(ctx, root, node)
	if err != nil {
		return fmt.Errorf("install CloudNativePG: %w", err)
	}
	path := l.Path("cloudnative-pg.yaml")
	if err := os.WriteFile(path, []byte(manifest), 0o600); err != nil {
		return fmt.Errorf("install CloudNativePG: %w", err)
	}
	// On the server, since an annotation with the whole definition of a cluster would be too long.
	if _, err := l.Kubectl(ctx, "apply", "--server-side", "--filename", path); err != nil {
		return fmt.Errorf("install CloudNativePG: %w", err)
	}
	if _, err := database.AwaitReady(ctx, l, namespace, operatorLabels, 1); err != nil {
		return fmt.Errorf("install CloudNativePG: %w", err)
	}
	return nil
}

// Definition returns the file with the release's own definition of Clusters. root is the repository's.
func Definition(ctx context.Context, root string) (string, error) {
	folder, err := moduleFolder(ctx, root)
	if err != nil {
		return "", fmt.Errorf("find the definition of Clusters: %w", err)
	}
	return filepath.Join(folder, "config", "crd", "bases", "postgresql.cnpg.io_clusters.yaml"), nil
}

// moduleFolder returns the folder of the operator's source.
func moduleFolder(ctx context.Context, root string) (string, error) {
	download := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	download.Dir = filepath.Join(root, tools.Folder, "cloudnative-pg")
	download.Env = append(os.Environ(), "GOWORK=off")
	said, err := download.Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w\n%s", err, said)
	}
	var found struct{ Dir string }
	if err := json.Unmarshal(said, &found); err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return found.Dir, nil
}

// operatorManifest returns the release's own manifest, with the lab's image, on this node.
func operatorManifest(ctx context.Context, root, node string) (string, error) {
	folder, err := moduleFolder(ctx, root)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(folder, "releases", "cnpg-"+version+".yaml"))
	if err != nil {
		return "", err
	}
	return strings.NewReplacer(
		"ghcr.io/cloudnative-pg/cloudnative-pg:"+version, Image,
		"imagePullPolicy: Always", "imagePullPolicy: Never",
		"serviceAccountName: cnpg-manager", "serviceAccountName: cnpg-manager\n      nodeSelector: {kubernetes.io/hostname: "+node+"}",
		"failureThreshold: 6", "failureThreshold: 600", // a busy machine
		"            cpu: 100m\n            memory: 200Mi", "            memory: 400Mi", // no limit of the CPU, for the same reason
	).Replace(string(text)), nil
}
