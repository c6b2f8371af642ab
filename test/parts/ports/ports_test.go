package ports_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/ports"
)

func TestHold_UntilClosed_NobodyElseListens(t *testing.T) {
	listener, port, err := ports.Hold()
	require.NoError(t, err)
	require.Less(t, port, 32768, "outgoing connections take higher ports")
	_, err = net.Listen("tcp", ports.Address(port))
	require.ErrorContains(t, err, "in use")
	require.NoError(t, listener.Close())
}

func TestFree_Port_CanBeListenedOn(t *testing.T) {
	port, err := ports.Free()
	require.NoError(t, err)
	listener, err := net.Listen("tcp", ports.Address(port))
	require.NoError(t, err)
	require.NoError(t, listener.Close())
}
