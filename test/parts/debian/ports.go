package debian

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"quiesce/test/parts/images"
)

// Ports are below 32768, where the kernel's range for outgoing connections begins (net.ipv4.ip_local_port_range): any client could
// take a port of that range before its server starts.
const (
	lowestPort   = 10000
	highestPort  = 32767
	portAttempts = 1000 // few ports are taken: that many failures in a row mean that none is free
)

// claims are the ports that this process has got. Each is a locked byte of a file until the process ends, so no other process gets it. What
// still connects to a server that a test has stopped must not reach the server of another test.
var claims = struct {
	mutex sync.Mutex
	ports map[int]bool
	file  func() (*os.File, error)
}{ports: map[int]bool{}, file: sync.OnceValues(openClaims)}

func openClaims() (*os.File, error) {
	dir, err := images.Dir()
	if err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(dir, "ports.lock"), os.O_RDWR|os.O_CREATE, 0o600)
}

var errClaimed = errors.New("another test has it")

// FreePort returns a port on the loopback interface that is free now. No process of this user gets it again while this one runs.
func FreePort() (int, error) {
	var last error
	for range portAttempts {
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		listener, err := net.Listen("tcp", Address(port))
		if err == nil {
			err = errors.Join(claim(port), listener.Close())
		}
		if err == nil {
			return port, nil
		}
		last = err
	}
	return 0, fmt.Errorf("find a free port: %w", last)
}

// claim locks the port's byte of the file. A process never conflicts with locks of its own, so these are in a map too.
func claim(port int) error {
	claims.mutex.Lock()
	defer claims.mutex.Unlock()
	if claims.ports[port] {
		return errClaimed
	}
	file, err := claims.file()
	if err != nil {
		return err
	}
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Start: int64(port), Len: 1}
	switch err := syscall.FcntlFlock(file.Fd(), syscall.F_SETLK, &lock); {
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EAGAIN):
		return errClaimed
	case err != nil:
		return fmt.Errorf("lock port %d: %w", port, err)
	}
	claims.ports[port] = true
	return nil
}

// Address returns the loopback address of a port.
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
