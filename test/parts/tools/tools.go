// Package tools lists the real components that the lab runs: their versions, how they are built from pinned modules (the nested
// go.mod files beside this file), and where the built programs are.
//
// Programs are in the user's cache directory, one folder per version, so that all clones on a machine share them. If
// KUBEBUILDER_ASSETS names a folder that has a program, that one is used instead (https://book.kubebuilder.io/reference/envtest).
package tools

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Tool is one program of the lab.
type Tool struct {
	Name    string // of the program
	Module  string // the folder beside this file whose go.mod pins it
	Version string // the pinned version of that module's tool
	Package string // the main package
	LDFlags string // linker flags the program needs to work
}

// Folder is where the modules are, from the root of the repository.
const Folder = "test/parts/tools"

const (
	kubernetesVersion = "v1.36.3"
	// kubernetesStamp sets the programs' version: without it kubectl cannot parse its own version.
	kubernetesStamp = "-X k8s.io/component-base/version.gitVersion=" + kubernetesVersion
)

// All returns all programs in build order.
func All() []Tool { return append(Lab(), Operators()...) }

// Operators returns the operators that some labs run in pods.
func Operators() []Tool {
	return []Tool{{
		Name: "cloudnative-pg", Module: "cloudnative-pg", Version: "v1.30.0",
		Package: "github.com/cloudnative-pg/cloudnative-pg/cmd/manager",
	}}
}

// Lab returns what every lab needs, in build order: the longest build first, since the others share its packages.
func Lab() []Tool {
	return []Tool{
		kubernetes("kube-apiserver"),
		kubernetes("kube-controller-manager"),
		kubernetes("kube-scheduler"),
		kubernetes("kubectl"),
		kubernetes("kubelet"),
		kubernetes("kube-proxy"),
		{Name: "etcd", Module: "etcd", Version: "v3.6.8", Package: "go.etcd.io/etcd/server/v3"},
		{Name: "kwok", Module: "kwok", Version: "v0.7.0", Package: "sigs.k8s.io/kwok/cmd/kwok"},
		{
			Name: "aws-iam-authenticator", Module: "aws-iam-authenticator", Version: "v0.7.18",
			Package: "sigs.k8s.io/aws-iam-authenticator/cmd/aws-iam-authenticator",
		},
	}
}

func kubernetes(name string) Tool {
	return Tool{
		Name: name, Module: "kubernetes", Version: kubernetesVersion,
		Package: "k8s.io/kubernetes/cmd/" + name, LDFlags: kubernetesStamp,
	}
}

// Path returns the path of a built program, or an error if it is not built.
func Path(name string) (string, error) {
	for _, t := range All() {
		if t.Name == name {
			return t.find()
		}
	}
	return "", fmt.Errorf("no tool is called %q", name)
}

func (t Tool) find() (string, error) {
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		if path := filepath.Join(dir, t.Name); isProgram(path) {
			return path, nil
		}
	}
	path, err := t.Cached()
	if err != nil {
		return "", err
	}
	if !isProgram(path) {
		return "", fmt.Errorf("%s %s is not built: run `make %s`", t.Name, t.Version, t.target())
	}
	return path, nil
}

// target returns the command that builds the program.
func (t Tool) target() string {
	if slices.Contains(Operators(), t) {
		return "operators"
	}
	return "tools"
}

// Cached returns where the built program is, or would be.
func (t Tool) Cached() (string, error) {
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, t.Module+"-"+t.Version, t.Name), nil
}

// Dir returns the cache folder of all built programs.
func Dir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache for built tools: %w", err)
	}
	return filepath.Join(cache, "quiesce", "tools"), nil
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
