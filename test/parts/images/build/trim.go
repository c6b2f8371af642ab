package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// dispensable are the files that no image needs to run its program, most of a fresh Debian: every node writes an image to disk
// twice before its first pod starts.
var dispensable = []string{
	// Documentation.
	"usr/share/doc/*", "usr/share/man/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/i18n", "usr/share/lintian",
	"usr/share/bash-completion", "usr/lib/*/gconv", "var/log/*.log",
	// Package management.
	"var/cache/apt/*", "var/cache/debconf/*", "var/lib/apt/*", "var/lib/dpkg/*", "usr/lib/apt", "usr/lib/*/libapt*",
	"usr/bin/apt*", "usr/bin/dpkg*", "usr/bin/sqv", "usr/share/keyrings",
	// Perl, the language of the packages' scripts and wrappers.
	"usr/bin/perl*", "usr/share/perl", "usr/share/perl5", "usr/lib/*/perl", "usr/lib/*/perl5", "usr/lib/*/perl-base",
	"usr/lib/*/libperl.so*",
	// Files that debootstrap copied from this machine, and devices, which all runtimes make themselves.
	"etc/resolv.conf", "etc/hostname", "dev/*",
}

// trim removes the files under rootfs that match dispensable or more.
func trim(rootfs string, more []string) error {
	for _, pattern := range slices.Concat(dispensable, more) {
		paths, err := filepath.Glob(filepath.Join(rootfs, pattern))
		if err != nil {
			return err
		}
		for _, path := range paths {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// relink makes the absolute links under rootfs relative, so that they stay inside it when its programs run on the host. Debian's
// dynamic loader is such a link, and the host's loader does not fit the image's C library.
func relink(rootfs string) error {
	return filepath.WalkDir(rootfs, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type() != fs.ModeSymlink {
			return err
		}
		target, err := os.Readlink(path)
		if err != nil || !filepath.IsAbs(target) {
			return err
		}
		relative, err := filepath.Rel(filepath.Dir(path), filepath.Join(rootfs, target))
		if err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		return os.Symlink(relative, path)
	})
}
