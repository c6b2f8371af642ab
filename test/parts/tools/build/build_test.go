package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/tools"
)

// saysVariable makes this test's program play etcd.
const saysVariable = "TOOL_SAYS"

func TestMain(m *testing.M) {
	if said, ok := os.LookupEnv(saysVariable); ok && filepath.Base(os.Args[0]) == etcd.Name {
		fmt.Println(said)
		return
	}
	os.Exit(m.Run())
}

var etcd = tools.Tool{Name: "etcd", Module: tools.Module{Folder: "lab", Recipe: "0"}, Version: "v3.6.8", Asked: "--version"}

// putEtcd puts the program that says this into a folder.
func putEtcd(t *testing.T, said string) (folder string) {
	t.Setenv(saysVariable, said)
	own, err := os.Executable()
	require.NoError(t, err)
	program, err := os.ReadFile(own)
	require.NoError(t, err)
	folder = t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, etcd.Name), program, 0o755))
	return folder
}

func TestCopied_RightVersionInAssetsOrPath_IsUsed(t *testing.T) {
	for _, variable := range []string{"KUBEBUILDER_ASSETS", "PATH"} {
		t.Setenv("XDG_CACHE_HOME", t.TempDir())
		t.Setenv("KUBEBUILDER_ASSETS", "")
		t.Setenv("PATH", "")
		t.Setenv(variable, putEtcd(t, "etcd Version: 3.6.8"))
		require.Empty(t, copied(t.Context(), []tools.Tool{etcd}), variable)
		cached, err := etcd.Cached()
		require.NoError(t, err)
		info, err := os.Stat(cached)
		require.NoError(t, err)
		require.NotZero(t, info.Mode()&0o100, "it is a program")
	}
}

func TestCopied_OtherFile_IsNotUsed(t *testing.T) {
	none := t.TempDir()
	script := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(script, etcd.Name), []byte("#!/bin/sh\necho 3.6.8\n"), 0o755))
	link := t.TempDir()
	own, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(own, filepath.Join(link, etcd.Name)))
	for name, folder := range map[string]string{
		"nothing": none, "a script": script, "a link to another program": link, "another version": putEtcd(t, "etcd Version: 3.6.80"),
	} {
		t.Setenv("XDG_CACHE_HOME", t.TempDir())
		t.Setenv("KUBEBUILDER_ASSETS", folder)
		t.Setenv("PATH", "")
		require.Equal(t, []tools.Tool{etcd}, copied(t.Context(), []tools.Tool{etcd}), name)
	}
}

func TestSays_VersionTexts_ExactVersionOnly(t *testing.T) {
	for text, expected := range map[string]bool{
		"Kubernetes v1.36.3\n":              true,
		"Client Version: v1.36.3\nKusto":    true,
		`{"Version":"v1.36.3","Commit":""}`: true,
		"kwok version 1.36.3 go1.26":        true,
		"Kubernetes v1.36.30":               false,
		"Kubernetes v11.36.3":               false,
		"Kubernetes v1.36.3-eks-0b1c":       false,
		"Kubernetes v1.36.3+k3s1":           false,
		"Kubernetes v1x36.3":                false,
	} {
		require.Equal(t, expected, says([]byte(text), "v1.36.3"), text)
	}
}

func TestOutput_Packages_NamesOfGo(t *testing.T) {
	require.Equal(t, "kwok", output("sigs.k8s.io/kwok/cmd/kwok"))
	require.Equal(t, "server", output("go.etcd.io/etcd/server/v3"))
}
