package tools

import (
	"cmp"
	"fmt"
	"os"
	"strings"
)

// kubernetesVariable names the environment variable that says which Kubernetes labs run: v1.33.x, or an exact version that is pinned.
const kubernetesVariable = "KUBERNETES"

// releases are the modules with a Kubernetes. Labs run the first one by default: the version of client-go that the function is built with.
// The other is the oldest that Amazon EKS supports.
var releases = []Module{
	lab,
	{Folder: "kubernetes-1.33", Recipe: "cc90d87b", Kubernetes: "v1.33.13"},
}

// Kubernetes returns the version of Kubernetes that labs run.
func Kubernetes() (string, error) {
	module, err := kubernetes()
	return module.Kubernetes, err
}

func kubernetes() (Module, error) {
	wanted := cmp.Or(os.Getenv(kubernetesVariable), releases[0].Kubernetes)
	var known []string
	for _, m := range releases {
		if wanted == m.Kubernetes || wanted == m.minor() {
			return m, nil
		}
		known = append(known, m.minor())
	}
	return Module{}, fmt.Errorf("%s is %q: it can be %s", kubernetesVariable, wanted, strings.Join(known, " or "))
}

// minor returns the name of all patch versions of its Kubernetes, such as v1.33.x.
func (m Module) minor() string { return m.Kubernetes[:strings.LastIndex(m.Kubernetes, ".")] + ".x" }

// program returns one of its Kubernetes.
func (m Module) program(name string, seconds int) Tool {
	asked := "--version"
	if name == "kubectl" {
		asked = "version --client"
	}
	return Tool{Name: name, Module: m, Version: m.Kubernetes, Package: "k8s.io/kubernetes/cmd/" + name, Asked: asked, Seconds: seconds}
}
