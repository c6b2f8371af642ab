package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// States of a TCP socket in /proc/net/tcp (https://docs.kernel.org/networking/proc_net_tcp.html).
const (
	established = "01"
	listening   = "0A"
)

// socket is one TCP socket of the pod.
type socket struct {
	local  int    // port
	remote string // address and port, as the kernel writes them
	state  string
	inode  string // identifies it; "0" until pgbouncer has accepted it
}

// Columns of a row of /proc/net/tcp.
const (
	localColumn  = 1
	remoteColumn = 2
	stateColumn  = 3
	inodeColumn  = 9
)

// readSockets returns the TCP sockets of the network of a process, which all containers of a pod share.
func readSockets(folder string) (all []socket, err error) {
	var errs []error
	for _, table := range []string{"tcp", "tcp6"} {
		found, err := readTable(filepath.Join(folder, "net", table))
		if err != nil {
			errs = append(errs, err)
		}
		all = append(all, found...)
	}
	if len(errs) == 2 { // a node without IPv6 has no tcp6
		return nil, fmt.Errorf("list the connections: %w", errors.Join(errs...))
	}
	return all, nil
}

// readTable reads a table of sockets. The kernel writes it in parts, and may repeat a socket in the next part if others come and go meanwhile.
func readTable(path string) (found []socket, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	known := map[socket]bool{}
	lines := bufio.NewScanner(file)
	lines.Scan() // the names of the columns
	for lines.Scan() {
		if s, ok := readRow(lines.Text()); ok && !known[s] {
			known[s] = true
			found = append(found, s)
		}
	}
	return found, lines.Err()
}

func readRow(line string) (s socket, ok bool) {
	columns := strings.Fields(line)
	if len(columns) <= inodeColumn {
		return s, false
	}
	_, port, found := strings.Cut(columns[localColumn], ":")
	number, err := strconv.ParseUint(port, 16, 16)
	if !found || err != nil {
		return s, false
	}
	return socket{local: int(number), remote: columns[remoteColumn], state: columns[stateColumn], inode: columns[inodeColumn]}, true
}

// inodesOf returns the sockets that a process has open.
func inodesOf(p *process) (map[string]bool, error) {
	folder := filepath.Join(p.folder, "fd")
	files, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	inodes := map[string]bool{}
	for _, file := range files {
		target, err := os.Readlink(filepath.Join(folder, file.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		if inode, is := strings.CutPrefix(target, "socket:["); is {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return inodes, nil
}

// entrance is where clients connect to one pgbouncer.
type entrance struct {
	ports  []int
	inodes map[string]bool // of its listening sockets; nil: pgbouncer's sockets cannot be seen
}

// findEntrance finds the ports on which a process listens. Without permission to see its sockets, it takes the given port; zero: none.
func findEntrance(p *process, port int) (e entrance, err error) {
	own, err := inodesOf(p)
	if err != nil && port > 0 {
		return entrance{ports: []int{port}}, nil
	}
	if err != nil {
		return e, err
	}
	sockets, err := readSockets(p.folder)
	if err != nil {
		return e, err
	}
	e.inodes = map[string]bool{}
	for _, s := range sockets {
		if s.state == listening && own[s.inode] {
			e.inodes[s.inode] = true
			e.ports = append(e.ports, s.local)
		}
	}
	slices.Sort(e.ports)
	e.ports = slices.Compact(e.ports)
	return e, nil
}

// isOpen reports whether pgbouncer still listens.
func (e entrance) isOpen(sockets []socket) bool {
	return slices.ContainsFunc(sockets, func(s socket) bool {
		return s.state == listening && (e.inodes[s.inode] || e.inodes == nil && slices.Contains(e.ports, s.local))
	})
}

// clients returns the remote ends of the connections of clients.
func (e entrance) clients(sockets []socket) (remotes []string) {
	for _, s := range sockets {
		if s.state == established && slices.Contains(e.ports, s.local) {
			remotes = append(remotes, s.remote)
		}
	}
	return remotes
}

// servers counts a process' other connections, which lead to PostgreSQL. It returns -1 if they cannot be seen.
func (e entrance) servers(p *process, sockets []socket) (count int) {
	own, err := inodesOf(p)
	if err != nil {
		return -1
	}
	for _, s := range sockets {
		if s.state == established && own[s.inode] && !slices.Contains(e.ports, s.local) {
			count++
		}
	}
	return count
}
