// Package images makes the container images that the lab's real nodes run, on this machine and without a registry: poolers of two
// Debian releases, a database, databases with Patroni of the same releases, and Go programs of this repository.
//
// The Debian images are in the user's cache directory, each as an archive for `ctr -n k8s.io images import` and as an unpacked
// root filesystem, whose programs also run on the host through its own dynamic loader.
package images

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// Image is one image made from a Debian package.
type Image struct {
	Name    string
	Tag     string   // prefix of the program's version
	Suite   string   // of Debian
	Package string   // of Debian, or several, separated by commas
	Program string   // path in the image
	Path    string   // PATH of the image's processes
	Tool    string   // a program of quiesce/test/parts/tools that the image has too; empty: none
	At      string   // where that program is
	Links   []string // further paths, each followed by what it leads to
	Trim    []string // patterns of files that this image does not need, beside those that no image needs
}

const (
	// host is the registry in the images' names. It is never contacted.
	host = "localhost/"
	// User is the user of the processes in a Debian image: its packages create this account.
	User = "postgres"

	searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// All returns the Debian images, in the order in which they are made.
func All() []Image {
	return []Image{
		pgbouncer("1.18", "bookworm"), // exits at SIGTERM
		pgbouncer("1.24", "trixie"),   // waits for its clients after SIGTERM
		{
			Name: "postgres", Tag: "15", Suite: "bookworm", Package: "postgresql-15",
			Program: programs("15") + "/postgres", Path: programs("15") + ":" + searchPath, Trim: surplus("15"),
		},
		patroni("3.0", "bookworm", "15"), // calls the leader master
		patroni("4.0", "trixie", "17"),   // calls the leader primary
		cloudNativePG("17", "trixie"),
	}
}

// cloudNativePG is the operator, a PostgreSQL that it runs, and the pgbouncer of its poolers, in one image. The operator finds itself at
// this path when it starts an instance (https://github.com/cloudnative-pg/cloudnative-pg/blob/v1.30.0/Dockerfile).
func cloudNativePG(postgres, suite string) Image {
	return Image{
		Name: "cloudnative-pg", Tag: postgres, Suite: suite, Package: "pgbouncer,postgresql-" + postgres,
		Program: programs(postgres) + "/postgres", Path: programs(postgres) + ":" + searchPath, Trim: surplus(postgres),
		Tool: "cloudnative-pg", At: "/operator/manager_" + runtime.GOARCH,
		Links: []string{"/manager", "/operator/manager_" + runtime.GOARCH, "/usr/bin/pgbouncer", "/usr/sbin/pgbouncer"},
	}
}

// programs is the folder of PostgreSQL's programs. It is first in an image's path: the programs with the same names in /usr/bin are
// wrappers in Perl.
func programs(postgres string) string { return "/usr/lib/postgresql/" + postgres + "/bin" }

// surplus are the files of PostgreSQL that no image needs. The query compiler is more than half of the package; databases must set
// jit = off. The package's own database cluster is not used.
func surplus(postgres string) []string {
	return []string{
		"usr/lib/*/libLLVM*", "usr/lib/*/libz3*",
		"usr/lib/postgresql/" + postgres + "/lib/llvmjit*", "usr/lib/postgresql/" + postgres + "/lib/bitcode",
		"var/lib/postgresql/" + postgres + "/main", "etc/postgresql/" + postgres + "/main",
		"usr/share/zoneinfo/posix", "usr/share/zoneinfo/right",
	}
}

// patroni is Patroni and the PostgreSQL that it runs. Patroni has its own client of Kubernetes.
func patroni(version, suite, postgres string) Image {
	return Image{
		Name: "patroni", Tag: version, Suite: suite, Package: "patroni,postgresql-" + postgres,
		Program: "/usr/bin/patroni", Path: programs(postgres) + ":" + searchPath,
		Trim: append(surplus(postgres), "usr/lib/python3*/test", "usr/lib/python3*/lib2to3", "usr/lib/python3*/pydoc_data"),
	}
}

func pgbouncer(version, suite string) Image {
	return Image{
		Name: "pgbouncer", Tag: version, Suite: suite, Package: "pgbouncer",
		Program: "/usr/sbin/pgbouncer", Path: searchPath, Trim: []string{"usr/share/zoneinfo"},
	}
}

// String returns the image's short name, without the registry.
func (i Image) String() string { return i.Name + ":" + i.Tag }

// Ref returns the name by which a pod refers to the image, with imagePullPolicy Never.
func (i Image) Ref() string { return host + i.String() }

// Cached returns where the image's archive is, or would be.
func (i Image) Cached() (string, error) {
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, i.Name+"-"+i.Tag+".tar"), nil
}

// Unpacked returns where the image's root filesystem is, or would be.
func (i Image) Unpacked() (string, error) {
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, i.Name+"-"+i.Tag), nil
}

// Dir returns the cache folder of all images.
func Dir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache for images: %w", err)
	}
	return filepath.Join(cache, "quiesce", "images"), nil
}

// Path returns the archive of a Debian image, or an error if it is not built.
func Path(name, tag string) (string, error) {
	return find(name, tag, Image.Cached, os.FileMode.IsRegular)
}

// Rootfs returns the unpacked root filesystem of a Debian image, or an error if it is not built.
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
