package lab

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
)

// Kubectl runs the built kubectl as a cluster admin and returns its output. An error has kubectl's error text.
func (l *Lab) Kubectl(ctx context.Context, args ...string) (string, error) {
	cmd, err := l.command(ctx, "kubectl", append([]string{"--kubeconfig=" + l.Kubeconfig()}, args...)...)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %q: %w: %s", args, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// Apply applies a manifest file, one at a time: kubectl reads an object and then creates it, so two of them at once may both find none, and
// the second one fails.
func (l *Lab) Apply(ctx context.Context, manifest string) error {
	path, err := filepath.Abs(manifest) // kubectl runs in the lab's folder
	if err != nil {
		return fmt.Errorf("apply %s: %w", manifest, err)
	}
	l.applying.Lock()
	defer l.applying.Unlock()
	_, err = l.Kubectl(ctx, "apply", "-f", path)
	return err
}
