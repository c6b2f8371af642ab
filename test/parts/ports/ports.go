// Package ports finds free TCP ports on the loopback interface, and serves connections for tests.
package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports are below 32768, where the kernel's range for outgoing connections begins (net.ipv4.ip_local_port_range): any client could
// take a port of that range before its server starts.
const (
	lowest   = 10000
	highest  = 32767
	attempts = 1000 // few ports are taken: that many failures in a row mean that none is free
)

// Hold returns a port that is free but for the listener. Nobody else finds it until the listener is closed.
func Hold() (net.Listener, int, error) {
	var last error
	for range attempts {
		port := lowest + rand.IntN(highest-lowest+1)
		listener, err := net.Listen("tcp", Address(port))
		if err == nil {
			return listener, port, nil
		}
		last = err
	}
	return nil, 0, fmt.Errorf("find a free port: %w", last)
}

// Free returns a port that is free now.
func Free() (int, error) {
	listener, port, err := Hold()
	if err != nil {
		return 0, err
	}
	return port, listener.Close()
}

// Address returns the loopback address of a port.
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
