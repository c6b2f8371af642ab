package main

import (
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tcpUserTimeout is TCP_USER_TIMEOUT, which package syscall does not name.
const tcpUserTimeout = 18

func TestKeepalive_Defaults_FromKernel(t *testing.T) {
	options := socketOptions(t)
	require.Equal(t, 1, options(syscall.SOL_SOCKET, syscall.SO_KEEPALIVE))
	require.Equal(t, kernel(t, "tcp_keepalive_time"), options(syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE))
	require.Equal(t, kernel(t, "tcp_keepalive_intvl"), options(syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL))
	require.Equal(t, kernel(t, "tcp_keepalive_probes"), options(syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT))
	require.Zero(t, options(syscall.IPPROTO_TCP, tcpUserTimeout))
}

func TestDial_NoAnswer_EndsAfterTimeout(t *testing.T) {
	config, err := settings("postgres://worker@"+silent(t)+"/app?sslmode=disable", time.Millisecond)
	require.NoError(t, err)
	_, err = connect(config, "")
	var failure net.Error
	require.ErrorAs(t, err, &failure)
	require.True(t, failure.Timeout(), err)
}

// silent returns an address that answers no further connection: the kernel drops them while the listener's queue is full.
func silent(t *testing.T) string {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, syscall.Close(fd)) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	bound, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(bound.(*syscall.SockaddrInet4).Port))
	fills, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = fills.Close() })
	return addr
}

// socketOptions connects as a worker does, and returns a reader of its socket options.
func socketOptions(t *testing.T) func(level, option int) int {
	config, err := settings(serve(t, always).url, 0)
	require.NoError(t, err)
	c, err := connect(config, "")
	require.NoError(t, err)
	t.Cleanup(c.drop)
	raw, err := c.pg.Conn().(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	return func(level, option int) (value int) {
		var failed error
		require.NoError(t, raw.Control(func(fd uintptr) { value, failed = syscall.GetsockoptInt(int(fd), level, option) }))
		require.NoError(t, failed)
		return value
	}
}

func kernel(t *testing.T, name string) int {
	b, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
	require.NoError(t, err)
	value, err := strconv.Atoi(strings.TrimSpace(string(b)))
	require.NoError(t, err)
	return value
}
