package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/images"
)

func TestBelow_MountsInAFolder_LatestFirst(t *testing.T) {
	mounts, err := below("/cache/an image", strings.NewReader(`
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:5 / /proc rw,relatime - proc proc rw
40 22 0:5 / /cache/an\040image/proc rw,relatime - proc proc rw
41 22 0:6 / /cache/an\040image/sys rw,relatime - sysfs sysfs rw
42 41 0:7 / /cache/an\040image/sys/fs/cgroup rw,relatime - tmpfs tmpfs rw
43 22 0:8 / /cache/an\040image-2/proc rw,relatime - proc proc rw
`))
	require.NoError(t, err)
	require.Equal(t, []string{"/cache/an image/sys/fs/cgroup", "/cache/an image/sys", "/cache/an image/proc"}, mounts)
}

func TestTrim_Patterns_OnlyMatchesRemoved(t *testing.T) {
	rootfs := t.TempDir()
	for _, path := range []string{
		"usr/share/doc/tool/README", "usr/lib/x-linux-gnu/perl/5/Big.pm", "usr/lib/x-linux-gnu/libc.so.6", "usr/lib/x-linux-gnu/libLLVM-14.so",
	} {
		require.NoError(t, os.MkdirAll(filepath.Join(rootfs, filepath.Dir(path)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(rootfs, path), nil, 0o644))
	}
	require.NoError(t, trim(rootfs, []string{"usr/lib/*/libLLVM*"}))
	require.NoDirExists(t, filepath.Join(rootfs, "usr/share/doc/tool"))
	require.NoDirExists(t, filepath.Join(rootfs, "usr/lib/x-linux-gnu/perl"))
	require.NoFileExists(t, filepath.Join(rootfs, "usr/lib/x-linux-gnu/libLLVM-14.so"))
	require.FileExists(t, filepath.Join(rootfs, "usr/lib/x-linux-gnu/libc.so.6"))
}

func TestRelink_AbsoluteLink_StaysInRootfs(t *testing.T) {
	rootfs := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(rootfs, "usr/lib64"), 0o755))
	require.NoError(t, os.Symlink("usr/lib64", filepath.Join(rootfs, "lib64")))
	require.NoError(t, os.Symlink("/lib/loader", filepath.Join(rootfs, "usr/lib64/loader")))
	require.NoError(t, relink(rootfs))
	for link, target := range map[string]string{"lib64": "usr/lib64", "usr/lib64/loader": "../../lib/loader"} {
		got, err := os.Readlink(filepath.Join(rootfs, link))
		require.NoError(t, err)
		require.Equal(t, target, got)
	}
}

func TestBuild_ToolsMissing_OneLineError(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := able()
	require.ErrorContains(t, err, "debootstrap is not installed")
	require.NotContains(t, err.Error(), "\n")
}

func TestVerify_OtherVersion_Refused(t *testing.T) {
	programs := t.TempDir()
	t.Setenv("PATH", programs)
	pooler := images.Image{Name: "pooler", Tag: "1.2", Suite: "sid", Package: "pooler", Program: "/pooler"}
	chroot := func(output string) {
		script := "#!/bin/sh\necho '" + output + "'\n"
		require.NoError(t, os.WriteFile(filepath.Join(programs, "chroot"), []byte(script), 0o755))
	}
	chroot("pooler 1.2.3")
	require.NoError(t, verify(t.Context(), pooler, "/"))
	chroot("pooler 1.24.1")
	require.ErrorContains(t, verify(t.Context(), pooler, "/"), `pooler of Debian sid has another version than 1.2: "pooler 1.24.1"`)
}
