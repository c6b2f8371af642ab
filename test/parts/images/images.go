// Package images has the container images that the lab's real nodes run, made on this machine without any registry:
// poolers and a database of two Debian generations, and Go programs of this repository.
//
// The Debian ones live in the user's cache directory, each as an archive that `ctr -n k8s.io images import` takes and,
// beside it, as the unpacked root filesystem, whose programs also run on the host through its own dynamic loader.
package images

import (
	"fmt"
	"os"
	"path/filepath"
)

// Image is one image made from a Debian package.
type Image struct {
	Name    string
	Tag     string   // what the program's own version begins with
	Suite   string   // of Debian
	Package string   // of Debian
	Program string   // its path in the image
	Path    string   // where the image's processes look for programs
	Trim    []string // what this image can do without, beside what no image needs: patterns under its root
}

const (
	// host is the registry that the images pretend to come from; nobody is ever asked there.
	host = "localhost/"
	// User is who the processes of a Debian image are: both packages make this account.
	User = "postgres"

	searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// postgres15 comes first in its image's path: the programs of the same names in /usr/bin are wrappers in Perl.
	postgres15 = "/usr/lib/postgresql/15/bin"
)

// All lists the Debian images, in the order in which they are made.
func All() []Image {
	return []Image{
		pgbouncer("1.18", "bookworm"), // the generation that exits at SIGTERM
		pgbouncer("1.24", "trixie"),   // the generation that waits for its clients
		{
			Name: "postgres", Tag: "15", Suite: "bookworm", Package: "postgresql-15",
			Program: postgres15 + "/postgres", Path: postgres15 + ":" + searchPath,
			// The compiler of queries is more than half of the whole; who runs the database sets jit = off. The cluster
			// that the package makes is of no use, as everyone makes their own.
			Trim: []string{
				"usr/lib/*/libLLVM*", "usr/lib/*/libz3*",
				"usr/lib/postgresql/15/lib/llvmjit*", "usr/lib/postgresql/15/lib/bitcode",
				"var/lib/postgresql/15/main", "etc/postgresql/15/main",
				"usr/share/zoneinfo/posix", "usr/share/zoneinfo/right",
			},
		},
	}
}

func pgbouncer(version, suite string) Image {
	return Image{
		Name: "pgbouncer", Tag: version, Suite: suite, Package: "pgbouncer",
		Program: "/usr/sbin/pgbouncer", Path: searchPath, Trim: []string{"usr/share/zoneinfo"},
	}
}

// String is the image's short name, without the registry.
func (i Image) String() string { return i.Name + ":" + i.Tag }

// Ref is how a pod names the image, with imagePullPolicy Never.
func (i Image) Ref() string { return host + i.String() }

// Cached is where the image's archive is, or would be.
func (i Image) Cached() (string, error) {
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, i.Name+"-"+i.Tag+".tar"), nil
}

// Unpacked is where the image's root filesystem is, or would be.
func (i Image) Unpacked() (string, error) {
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, i.Name+"-"+i.Tag), nil
}

// Dir is the cache of all images.
func Dir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache for images: %w", err)
	}
	return filepath.Join(cache, "quiesce", "images"), nil
}

// Path finds the archive of a Debian image.
func Path(name, tag string) (string, error) {
	return find(name, tag, Image.Cached, os.FileMode.IsRegular)
}

// Rootfs finds the unpacked root filesystem of a Debian image.
func Rootfs(name, tag string) (string, error) {
	return find(name, tag, Image.Unpacked, os.FileMode.IsDir)
}

func find(name, tag string, where func(Image) (string, error), is func(os.FileMode) bool) (string, error) {
	for _, i := range All() {
		if i.Name != name || i.Tag != tag {
			continue
		}
		path, err := where(i)
		if err != nil {
			return "", err
		}
		if info, err := os.Stat(path); err != nil || !is(info.Mode()) {
			return "", fmt.Errorf("image %s is not made: run `make images`", i)
		}
		return path, nil
	}
	return "", fmt.Errorf("no image is called %s:%s", name, tag)
}
