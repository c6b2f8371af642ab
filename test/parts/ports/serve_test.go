package ports_test

import (
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/ports"
)

func TestServe_TestEnds_ConnectionsClosedAndCallsEnded(t *testing.T) {
	ended := make(chan struct{})
	var conn net.Conn
	ran := t.Run("the test", func(t *testing.T) {
		address := ports.Serve(t, func(served net.Conn) {
			defer close(ended)
			_, _ = io.Copy(served, served)
		})
		var err error
		conn, err = net.Dial("tcp", address)
		require.NoError(t, err)
		_, err = io.WriteString(conn, "x")
		require.NoError(t, err)
		_, err = io.ReadFull(conn, make([]byte, 1))
		require.NoError(t, err, "it is served until the test ends")
	})
	if !ran {
		return
	}
	defer conn.Close()
	select {
	case <-ended:
	default:
		require.Fail(t, "a call has not ended")
	}
	_, err := conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}
