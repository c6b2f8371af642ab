package archive

import (
	"archive/tar"
	"cmp"
	"crypto/sha256"

	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// layer is the changeset being written: all files below root, as they are on disk.
type layer struct {
	root  string
	tar   *tar.Writer
	first map[inode]string // name of the first entry of a file with several names
}

type inode struct{ device, number uint64 }

// writeLayer packs the folder root into the file path and returns its digest.
func writeLayer(path, root string) (digest string, err error) {
	sum := sha256.New()
	err = create(path, func(file io.Writer) error {
		l := layer{root: root, tar: tar.NewWriter(io.MultiWriter(file, sum)), first: map[inode]string{}}
		return cmp.Or(filepath.WalkDir(root, l.add), l.tar.Close())
	})
	return fmt.Sprintf("sha256:%x", sum.Sum(nil)), err
}

func (l *layer) add(path string, entry fs.DirEntry, err error) error {
	// The runtime makes the root itself, as well as devices, pipes and sockets.
	if err != nil || path == l.root || entry.Type()&^(fs.ModeDir|fs.ModeSymlink) != 0 {
		return err
	}
	header, err := l.header(path, entry)
	if err != nil {
		return err
	}
	if header.Typeflag == tar.TypeReg {
		return copyFile(l.tar, header, path)
	}
	return l.tar.WriteHeader(header)
}

func (l *layer) header(path string, entry fs.DirEntry) (*tar.Header, error) {
	info, err := entry.Info()
	if err != nil {
		return nil, err
	}
	target := ""
	if entry.Type() == fs.ModeSymlink {
		if target, err = os.Readlink(path); err != nil {
			return nil, err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return nil, err
	}
	if header.Name, err = filepath.Rel(l.root, path); err != nil {
		return nil, err
	}
	header.Uname, header.Gname = "", "" // without this machine's user names
	l.link(header, info)
	if info.IsDir() {
		header.Name += "/"
	}
	return header, nil
}

// link turns the second and later names of a file into links to the first.
func (l *layer) link(header *tar.Header, info fs.FileInfo) {
	stat, is := info.Sys().(*syscall.Stat_t)
	if !is || header.Typeflag != tar.TypeReg || stat.Nlink == 1 {
		return
	}
	id := inode{uint64(stat.Dev), stat.Ino}
	if first, known := l.first[id]; known {
		header.Typeflag, header.Linkname, header.Size = tar.TypeLink, first, 0
		return
	}
	l.first[id] = header.Name
}
