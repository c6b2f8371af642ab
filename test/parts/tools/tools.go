// Package tools lists the real components that the lab runs: their versions, how they are built from pinned modules (the nested
// go.mod files beside this file), and where the built programs are.
//
// Programs are in the user's cache directory, one folder per recipe, so that all clones on a machine share them. Command build fills it.
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
	Module  Module // that pins it
	Version string // of the program
	Package string // the main package
	Asked   string // the arguments with which it prints its version; empty: only one that is built here is used
	// Seconds is the estimated CPU time of its build if all programs before it in build order are built.
	Seconds int
}

// Module is a Go module beside this file.
type Module struct {
	Folder     string
	Recipe     string // names the cache folder; TestRecipe_OfEachModule_IsCurrent says what it must be
	Kubernetes string // the version that its programs say
}

// Folder is where the modules are, from the root of the repository.
const Folder = "test/parts/tools"

var (
	lab      = Module{Folder: "lab", Recipe: "75278f97", Kubernetes: "v1.36.3"}
	storage  = Module{Folder: "external-attacher", Recipe: "146f9105"}
	operator = Module{Folder: "cloudnative-pg", Recipe: "5aacd37b"}
)

// All returns all programs in build order.
func All() ([]Tool, error) {
	needed, err := Lab()
	return append(needed, Operators()...), err
}

// Operators returns the controllers that some labs with real nodes need: of storage and of databases.
func Operators() []Tool {
	return []Tool{
		{
			Name: "csi-attacher", Module: storage, Version: "v4.12.0",
			Package: "github.com/kubernetes-csi/external-attacher/v4/cmd/csi-attacher", Seconds: 230,
		},
		{
			Name: "cloudnative-pg", Module: operator, Version: "v1.30.0",
			Package: "github.com/cloudnative-pg/cloudnative-pg/cmd/manager", Seconds: 300,
		},
	}
}

// Lab returns what tests need of a lab, in build order.
func Lab() ([]Tool, error) {
	k, err := kubernetes()
	if err != nil {
		return nil, err
	}
	needed, err := Demo()
	return append(needed, k.program("kubectl", 50), k.program("kubelet", 40), k.program("kube-proxy", 15)), err
}

// Demo returns what a lab without kubectl and without real nodes needs, in build order. aws-iam-authenticator comes first, because the
// compiler works longest on one package of it, EC2's client. The rest is compiled beside it.
func Demo() ([]Tool, error) {
	k, err := kubernetes()
	if err != nil {
		return nil, err
	}
	return []Tool{
		{
			Name: "aws-iam-authenticator", Module: lab, Version: "v0.7.18",
			Package: "sigs.k8s.io/aws-iam-authenticator/cmd/aws-iam-authenticator", Asked: "version", Seconds: 400,
		},
		k.program("kube-apiserver", 400), k.program("kube-controller-manager", 120), k.program("kube-scheduler", 10),
		{Name: "etcd", Module: lab, Version: "v3.6.8", Package: "go.etcd.io/etcd/server/v3", Asked: "--version", Seconds: 30},
		{Name: "kwok", Module: lab, Version: "v0.8.0", Package: "sigs.k8s.io/kwok/cmd/kwok", Asked: "--version", Seconds: 40},
	}, nil
}

// Path returns the path of a built program, or an error if it is not built.
func Path(name string) (string, error) {
	all, err := All()
	if err != nil {
		return "", err
	}
	for _, t := range all {
		if t.Name == name {
			return t.find()
		}
	}
	return "", fmt.Errorf("no tool is called %q", name)
}

func (t Tool) find() (string, error) {
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
	switch wanted := os.Getenv(kubernetesVariable); {
	case slices.Contains(Operators(), t):
		return "operators"
	case wanted != "":
		return "tools " + kubernetesVariable + "=" + wanted
	}
	return "tools"
}

// Flags returns the flags of `go build`. They are those of the function, so that the build cache has each package once.
func (m Module) Flags() []string {
	link := "-s -w"
	if m.Kubernetes != "" { // kubectl cannot parse its own version without it
		link += " -X k8s.io/component-base/version.gitVersion=" + m.Kubernetes
	}
	return []string{"-trimpath", "-buildvcs=false", "-ldflags", link}
}

// Cached returns where the built program is, or would be.
func (t Tool) Cached() (string, error) {
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, t.Module.Folder+"-"+t.Module.Recipe, t.Name), nil
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
