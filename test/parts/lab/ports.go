package lab

import "quiesce/test/parts/ports"

type componentPorts struct {
	etcd, etcdPeer, apiServer, controllers, scheduler, kwok, authenticator int
}

// choosePorts finds a free port on 127.0.0.1 for each component. It holds each port until it has found the last, so that all
// differ.
func choosePorts() (p componentPorts, err error) {
	for _, port := range []*int{
		&p.etcd, &p.etcdPeer, &p.apiServer, &p.controllers, &p.scheduler, &p.kwok, &p.authenticator,
	} {
		held, free, err := ports.Hold()
		if err != nil {
			return p, err
		}
		defer held.Close()
		*port = free
	}
	return p, nil
}
