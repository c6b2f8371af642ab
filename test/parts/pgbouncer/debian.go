package pgbouncer

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"quiesce/test/parts/images"
)

// debian is the unpacked root filesystem of an image.
type debian struct {
	root      string
	libraries string
	loader    string
}

func unpacked(name, tag string) (debian, error) {
	root, err := images.Rootfs(name, tag)
	if err != nil {
		return debian{}, err
	}
	// Not the loader's usual name in /lib64: that is a symbolic link to an absolute path, which leads back to the host.
	loaders, err := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu/ld-linux-*.so.*"))
	if err != nil || len(loaders) != 1 {
		return debian{}, fmt.Errorf("image %s:%s has not one dynamic loader but %d", name, tag, len(loaders))
	}
	return debian{root: root, loader: loaders[0], libraries: filepath.Dir(loaders[0])}, nil
}

// wrap makes a script in dir that runs a program of the image. The program believes that the script is itself: PostgreSQL's
// find one another and their files by where they are.
func (d debian) wrap(dir, program string) (string, error) {
	script := filepath.Join(dir, filepath.Base(program))
	text := fmt.Sprintf("#!/bin/sh\nexec '%s' --library-path '%s' --argv0 '%s' '%s' \"$@\"\n",
		d.loader, d.libraries, script, filepath.Join(d.root, program))
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		return "", fmt.Errorf("wrap %s: %w", program, err)
	}
	return script, nil
}

// Ports are chosen below 32768, where the kernel's range for outgoing connections begins
// (net.ipv4.ip_local_port_range): a port from within that range may be taken by any client before its server starts.
const (
	lowestPort   = 10000
	highestPort  = 32767
	portAttempts = 1000 // taken ports are few; that many in a row mean that none can be had
)

func freePort() (int, error) {
	var last error
	for range portAttempts {
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		listener, err := net.Listen("tcp", address(port))
		if err == nil {
			return port, listener.Close()
		}
		last = err
	}
	return 0, fmt.Errorf("find a free port: %w", last)
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
