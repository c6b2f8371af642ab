package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The Makefile stamps the function with its version and commit. The same commit must give the same bytes, in every clone.
func TestMakefile_VersionAndCommit_AreThoseOfGit(t *testing.T) {
	folder := t.TempDir()
	require.Equal(t, "unknown unknown", versionIn(t, folder), "without git")

	git(t, folder, "init", "--quiet")
	write(t, folder, "a.go", "package a")
	git(t, folder, "add", "a.go")
	git(t, folder, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "--quiet", "--message", "a")
	commit := strings.TrimSpace(git(t, folder, "rev-parse", "HEAD"))[:12]
	require.Equal(t, commit+" "+commit, versionIn(t, folder))

	git(t, folder, "tag", "v1.2.3")
	require.Equal(t, "v1.2.3 "+commit, versionIn(t, folder))

	write(t, folder, "b.go", "package a")
	require.Equal(t, "v1.2.3-dirty "+commit+"-dirty", versionIn(t, folder), "with a new file")
}

func TestMakefile_Build_SetsVersionAndCommit(t *testing.T) {
	makefile, err := filepath.Abs("../Makefile")
	require.NoError(t, err)
	cmd := exec.Command("make", "-n", "-C", t.TempDir(), "-f", makefile, "VERSION=v1.2.3", "COMMIT=0123456789ab", "build")
	cmd.Env = append(os.Environ(), "MAKEFLAGS=")
	printed, err := cmd.CombinedOutput()
	require.NoError(t, err, string(printed))
	require.Contains(t, string(printed), "-X main.version=v1.2.3 -X main.commit=0123456789ab")
}

func TestMakefile_Synth_NamesTheVersion(t *testing.T) {
	makefile, err := filepath.Abs("../Makefile")
	require.NoError(t, err)
	cmd := exec.Command("make", "-n", "-C", t.TempDir(), "-f", makefile, "VERSION=v1.2.3", "synth")
	cmd.Env = append(os.Environ(), "MAKEFLAGS=")
	printed, err := cmd.CombinedOutput()
	require.NoError(t, err, string(printed))
	require.Contains(t, string(printed), versionVariable+"=v1.2.3 CDK_OUTDIR=cdk.out go run .")
}

// The names and bytes of a release depend on the commit alone.
func TestMakefile_Release_CarriesTheVersion(t *testing.T) {
	makefile, err := filepath.Abs("../Makefile")
	require.NoError(t, err)
	cmd := exec.Command("make", "-n", "-C", t.TempDir(), "-f", makefile, "VERSION=v1.2.3", "COMMIT=0123456789ab", "GOARCH=amd64", "REGISTRY=a.registry", "release")
	cmd.Env = append(os.Environ(), "MAKEFLAGS=")
	printed, err := cmd.CombinedOutput()
	require.NoError(t, err, string(printed))
	for _, want := range []string{
		"GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build -trimpath -buildvcs=false", "-X main.version=v1.2.3",
		"dist/release/quiesce-v1.2.3.zip", "go run ./infra release v1.2.3 dist/release", "infra/rbac.yaml infra/rbac-console.yaml infra/rbac-postgres-*.yaml",
		"infra/roles-job.yaml", "infra/terraform", "dist/release/quiescectl-$system ./infra/quiescectl", "for arch in arm64 amd64; do for name in patronicallback prestop roles; do",
		"program=dist/release/programs/$name-linux-$arch", "localhost/$name:v1.2.3 dist/release/images/$name-$arch.tar", "LC_ALL=C sort | xargs sha256sum >SHA256SUMS",
	} {
		require.Contains(t, string(printed), want)
	}
	require.NotContains(t, string(printed), "a.registry", "a registry, which is not the commit's")
}

// The page lists what a release has: every folder and file, but for checksums of them.
func TestReadme_Release_ListsItsFiles(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	for _, name := range []string{"quiesce-VERSION.zip", releaseTemplate, "rbac.yaml", "rbac-console.yaml", "rbac-postgres-*.yaml", "roles-job.yaml",
		"quiescectl-SYSTEM", "programs/", "images/", "terraform/", "SHA256SUMS"} {
		require.Contains(t, string(readme), "`"+name+"`")
	}
}

// versionIn returns the version and the commit that the Makefile finds in a folder.
func versionIn(t *testing.T, folder string) string {
	t.Helper()
	makefile, err := filepath.Abs("../Makefile")
	require.NoError(t, err)
	cmd := exec.Command("make", "-s", "--no-print-directory", "-C", folder, "-f", makefile, "--eval", "show: ; @echo $(VERSION) $(COMMIT)", "show")
	// A make that runs the tests must not pass its flags on.
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(folder), "MAKEFLAGS=")
	printed, err := cmd.CombinedOutput()
	require.NoError(t, err, string(printed))
	return strings.TrimSpace(string(printed))
}

func git(t *testing.T, folder string, arguments ...string) string {
	t.Helper()
	cmd := exec.Command("git", arguments...)
	cmd.Dir = folder
	printed, err := cmd.CombinedOutput()
	require.NoError(t, err, string(printed))
	return string(printed)
}

func write(t *testing.T, folder, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644))
}
