package tools

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The versions are the cache's keys. A version older than that of go.mod would test old programs.
func TestTools_Versions_MatchModules(t *testing.T) {
	for _, tool := range All() {
		pinned, err := os.ReadFile(filepath.Join(tool.Module, "go.mod"))
		require.NoError(t, err)
		require.True(t, strings.Contains(string(pinned), tool.Package+"\n"), "%s is no tool of its module", tool.Package)
		require.True(t, strings.Contains(string(pinned), moduleOf(tool.Package)+" "+tool.Version+" "), "%s is not at %s", tool.Name, tool.Version)
	}
}

func moduleOf(pkg string) string {
	module, _, _ := strings.Cut(pkg, "/cmd/")
	return module
}

func TestPath_AssetsHaveProgram_Used(t *testing.T) {
	assets := t.TempDir()
	t.Setenv("KUBEBUILDER_ASSETS", assets)
	etcd := filepath.Join(assets, "etcd")
	require.NoError(t, os.WriteFile(etcd, nil, 0o755))
	path, err := Path("etcd")
	require.NoError(t, err)
	require.Equal(t, etcd, path)
}

func TestPath_NotBuilt_ErrorNamesRemedy(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("KUBEBUILDER_ASSETS", "")
	_, err := Path("kube-apiserver")
	require.ErrorContains(t, err, "kube-apiserver")
	require.ErrorContains(t, err, "make tools")
	_, err = Path("kubeadm")
	require.ErrorContains(t, err, "kubeadm")
}
