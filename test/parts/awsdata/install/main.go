// Command install installs the npm packages of awsdata, once per lock. It runs no scripts of theirs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"quiesce/test/parts/awsdata"
	"quiesce/test/parts/tools/flock"
)

func main() { flock.Main("awsdata", awsdata.Dir, fill) }

func fill(ctx context.Context, _ *os.File) error {
	folder, err := awsdata.Installed()
	if err != nil {
		return err
	}
	if _, err := os.Stat(folder); err == nil {
		return nil
	}
	fmt.Println("awsdata: installing AWS's descriptions of resources and IAM actions from npm")
	unfinished := folder + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	if err := install(ctx, unfinished); err != nil {
		return err
	}
	// The rename comes last, so that an interrupted installation leaves nothing that looks like one.
	return os.Rename(unfinished, folder)
}

func install(ctx context.Context, folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for name, text := range map[string][]byte{"package.json": awsdata.Package, "package-lock.json": awsdata.Lock} {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o644); err != nil {
			return err
		}
	}
	// ci installs exactly what the lock has, and checks the hash of each package.
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error")
	cmd.Dir, cmd.Stdout, cmd.Stderr = folder, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("npm ci: %w", err)
	}
	return nil
}
