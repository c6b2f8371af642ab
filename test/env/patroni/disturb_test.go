package patroni

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// A connection that is closed, and still has something to send, counts.
func TestUnsentTo_QueuesToTheAddress_AddedUp(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0000000000000000 100 0 0 10 0
   1: 01000A0A:C001 05000A0A:1F48 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0000000000000000 100 0 0 10 0
   2: 01000A0A:C002 05000A0A:1F48 04 000000F6:00000000 01:00000014 00000003     0        0 0 1 0000000000000000 100 0 0 10 0
   3: 01000A0A:C003 05000A0A:1F49 01 00000001:00000000 01:00000014 00000000     0        0 4 1 0000000000000000 100 0 0 10 0
   4: 01000A0A:C004 06000A0A:1F48 01 00000001:00000000 01:00000014 00000000     0        0 5 1 0000000000000000 100 0 0 10 0
`
	unsent, err := unsentTo(table, netip.MustParseAddrPort("10.10.0.5:8008"))
	require.NoError(t, err)
	require.EqualValues(t, 0xF6, unsent)
	_, err = unsentTo("0: a 05000A0A:1F48 01 x:0", netip.MustParseAddrPort("10.10.0.5:8008"))
	require.Error(t, err)
}
