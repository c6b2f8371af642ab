package lab

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports are below 32768, where the kernel's range for outgoing connections begins (net.ipv4.ip_local_port_range): any client
// could take a port of that range before its server starts.
const (
	lowestPort   = 10000
	highestPort  = 32767
	portAttempts = 1000 // few ports are taken: that many failures in a row mean that none is free
)

type ports struct {
	etcd, etcdPeer, apiServer, controllers, scheduler, kwok, authenticator int
}

// choosePorts finds a free port on 127.0.0.1 for each component. It holds each port until it has found the last, so that all
// differ.
func choosePorts() (p ports, err error) {
	for _, port := range []*int{
		&p.etcd, &p.etcdPeer, &p.apiServer, &p.controllers, &p.scheduler, &p.kwok, &p.authenticator,
	} {
		held, free, err := holdPort()
		if err != nil {
			return p, err
		}
		defer held.Close()
		*port = free
	}
	return p, nil
}

func holdPort() (net.Listener, int, error) {
	var last error
	for range portAttempts {
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return listener, port, nil
		}
		last = err
	}
	return nil, 0, fmt.Errorf("find a free port: %w", last)
}
