package tools

import (
	"os"
	"path/filepath"
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

// The cache is keyed by these versions: a version that lags behind its go.mod would test old programs.
func TestAll_Versions_MatchModules(t *testing.T) {
	for _, tool := range All() {
		pinned, err := os.ReadFile(filepath.Join(tool.Module, "go.mod"))
		require.NoError(t, err)
		require.True(t, strings.Contains(string(pinned), tool.Package+"\n"), "%s is not a tool of its module", tool.Package)
		require.True(t, strings.Contains(string(pinned), moduleOf(tool.Package)+" "+tool.Version+" "), "%s is not at %s", tool.Name, tool.Version)
	}
}

func moduleOf(pkg string) string {
	module, _, _ := strings.Cut(pkg, "/cmd/")
	return module
}

func TestPath_ProgramInAssets_UsesIt(t *testing.T) {
	assets := t.TempDir()
	t.Setenv("KUBEBUILDER_ASSETS", assets)
	etcd := filepath.Join(assets, "etcd")
	require.NoError(t, os.WriteFile(etcd, nil, 0o755))
	path, err := Path("etcd")
	require.NoError(t, err)
	require.Equal(t, etcd, path)
}

func TestPath_NotBuilt_ErrorSaysHowToBuild(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("KUBEBUILDER_ASSETS", "")
	_, err := Path("kube-apiserver")
	require.ErrorContains(t, err, "kube-apiserver")
	require.ErrorContains(t, err, "make tools")
	_, err = Path("kubeadm")
	require.ErrorContains(t, err, "kubeadm")
}
