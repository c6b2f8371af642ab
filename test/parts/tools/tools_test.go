package tools

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFolder_FromRoot_IsThisOne(t *testing.T) {
	here, err := os.Stat(".")
	require.NoError(t, err)
	named, err := os.Stat(filepath.Join("..", "..", "..", Folder))
	require.NoError(t, err)
	require.True(t, os.SameFile(here, named), "%s is another folder", Folder)
}

// Programs say the version of their tool, and Path believes it.
func TestAll_Versions_MatchModules(t *testing.T) {
	for _, kubernetes := range releases {
		t.Setenv(kubernetesVariable, kubernetes.Kubernetes)
		all, err := All()
		require.NoError(t, err)
		for _, tool := range all {
			pinned, err := os.ReadFile(filepath.Join(tool.Module.Folder, "go.mod"))
			require.NoError(t, err)
			require.Contains(t, string(pinned), tool.Package+"\n", "not a tool of its module")
			require.Contains(t, string(pinned), moduleOf(tool.Package)+" "+tool.Version+" ", "another version")
		}
	}
}

func moduleOf(pkg string) string {
	module, _, _ := strings.Cut(pkg, "/cmd/")
	return module
}

// The cache is keyed by recipes: one that lags behind its module would test old programs.
func TestRecipe_OfEachModule_IsCurrent(t *testing.T) {
	for _, m := range append(slices.Clone(releases), storage, operator) {
		hash := sha256.New()
		for _, file := range []string{"go.mod", "go.sum"} {
			content, err := os.ReadFile(filepath.Join(m.Folder, file))
			require.NoError(t, err)
			hash.Write(content)
		}
		fmt.Fprint(hash, m.Flags())
		require.Equal(t, hex.EncodeToString(hash.Sum(nil))[:8], m.Recipe, "the recipe of %s", m.Folder)
	}
}

// What the function and the lab share is compiled once only if both have the same version of it.
func TestLab_SharedModules_HaveTheFunctionsVersions(t *testing.T) {
	function, programs := versions(t, filepath.Join("..", "..", "..", "go.mod")), versions(t, filepath.Join(lab.Folder, "go.mod"))
	for module, version := range function {
		if other, shared := programs[module]; shared {
			require.Equal(t, version, other, "%s; run in %s/%s: go get %s@%s, go mod tidy", module, Folder, lab.Folder, module, version)
		}
	}
}

var requirement = regexp.MustCompile(`(?m)^\t(\S+\.\S+) (v\S+)( // indirect)?$`)

// versions returns what a go.mod requires, by module.
func versions(t *testing.T, path string) map[string]string {
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	found := map[string]string{}
	for _, line := range requirement.FindAllStringSubmatch(string(content), -1) {
		found[line[1]] = line[2]
	}
	require.NotEmpty(t, found)
	return found
}

func TestPath_NotBuilt_ErrorSaysHowToBuild(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv(kubernetesVariable, "")
	_, err := Path("kube-apiserver")
	require.ErrorContains(t, err, "kube-apiserver")
	require.ErrorContains(t, err, "`make tools`")
	_, err = Path("cloudnative-pg")
	require.ErrorContains(t, err, "`make operators`")
	_, err = Path("kubeadm")
	require.ErrorContains(t, err, "kubeadm")
}

func TestKubernetes_Variable_SelectsPrograms(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	for _, wanted := range []string{"v1.33.x", "v1.33.13"} {
		t.Setenv(kubernetesVariable, wanted)
		version, err := Kubernetes()
		require.NoError(t, err)
		require.Equal(t, "v1.33.13", version)
		_, err = Path("kube-apiserver")
		require.ErrorContains(t, err, "`make tools KUBERNETES="+wanted+"`")
		_, err = Path("etcd")
		require.ErrorContains(t, err, "v3.6.8", "etcd is the same")
	}
	t.Setenv(kubernetesVariable, "v1.29.x")
	_, err := Path("kube-apiserver")
	require.EqualError(t, err, `KUBERNETES is "v1.29.x": it can be v1.36.x or v1.33.x`)
	_, err = All()
	require.Error(t, err)
}
