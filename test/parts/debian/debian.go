package debian

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"quiesce/test/parts/images"
)

// Image is the unpacked root filesystem of an image.
type Image struct {
	Root      string
	libraries string
	loader    string
}

// Unpacked returns the image of this name and tag, or an error if it is not built.
func Unpacked(name, tag string) (Image, error) {
	root, err := images.Rootfs(name, tag)
	if err != nil {
		return Image{}, err
	}
	// Not the loader's usual name in /lib64: that is a symbolic link to an absolute path, which leads back to the host.
	loaders, err := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu/ld-linux-*.so.*"))
	if err != nil || len(loaders) != 1 {
		return Image{}, fmt.Errorf("image %s:%s has not one dynamic loader but %d", name, tag, len(loaders))
	}
	return Image{Root: root, loader: loaders[0], libraries: filepath.Dir(loaders[0])}, nil
}

// Wrap writes a script to dir that runs a program of the image, and returns its path. The program sees the script's path as its
// own: PostgreSQL's programs find each other and their files relative to it.
func (i Image) Wrap(dir, program string) (string, error) {
	script := filepath.Join(dir, filepath.Base(program))
	text := fmt.Sprintf("#!/bin/sh\nexec '%s' --library-path '%s' --argv0 '%s' '%s' \"$@\"\n",
		i.loader, i.libraries, script, filepath.Join(i.Root, program))
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		return "", fmt.Errorf("wrap %s: %w", program, err)
	}
	return script, nil
}

// Ports are below 32768, where the kernel's range for outgoing connections begins (net.ipv4.ip_local_port_range): any client could
// take a port of that range before its server starts.
const (
	lowestPort   = 10000
	highestPort  = 32767
	portAttempts = 1000 // few ports are taken: that many failures in a row mean that none is free
)

// FreePort returns a port on the loopback interface that is free now.
func FreePort() (int, error) {
	var last error
	for range portAttempts {
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		listener, err := net.Listen("tcp", Address(port))
		if err == nil {
			return port, listener.Close()
		}
		last = err
	}
	return 0, fmt.Errorf("find a free port: %w", last)
}

// Address returns the loopback address of a port.
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
