package runtimeapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
)

// output keeps what is written to it and passes it on. Several writers may use it at once.
type output struct {
	mu   sync.Mutex
	all  bytes.Buffer
	copy io.Writer // may be nil
}

// Write never fails: errors of the copy must not disturb the process.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.copy != nil {
		_, _ = o.copy.Write(b)
	}
	return o.all.Write(b)
}

// String returns what was written so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}

// pipeChunk is the size of one read: half of a pipe's capacity.
const pipeChunk = 32 << 10

// pipe passes what a process writes to an output. Unlike a plain copy it can be emptied on demand: after the process has
// answered, its earlier output is complete.
type pipe struct {
	read, write *os.File
	conn        syscall.RawConn // of read
	to          io.Writer
	mu          sync.Mutex // keeps the order of reads
}

func newPipe(to io.Writer) (*pipe, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for the output: %w", err)
	}
	conn, err := read.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the output: %w", err), read.Close(), write.Close())
	}
	return &pipe{read: read, write: write, conn: conn, to: to}, nil
}

// pump passes data on until the pipe is closed at either end.
func (p *pipe) pump() {
	_ = p.conn.Read(func(fd uintptr) (ended bool) { return !p.drain(fd) })
}

// empty passes on what is in the pipe now.
func (p *pipe) empty() {
	_ = p.conn.Control(func(fd uintptr) { p.drain(fd) })
}

// close closes the pipe and discards its content.
func (p *pipe) close() {
	_ = p.write.Close() // already closed if the process was started
	_ = p.read.Close()
}

// drain reads without waiting. more is false after the last writer has closed the pipe.
func (p *pipe) drain(fd uintptr) (more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	chunk := make([]byte, pipeChunk)
	for {
		n, err := syscall.Read(int(fd), chunk)
		switch {
		case n > 0:
			_, _ = p.to.Write(chunk[:n]) // never fails
		case errors.Is(err, syscall.EINTR):
		default:
			return errors.Is(err, syscall.EAGAIN)
		}
	}
}
