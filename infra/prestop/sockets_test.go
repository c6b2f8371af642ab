package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadRow_LinesOfTheKernel_SocketsOrNothing(t *testing.T) {
	for line, want := range map[string]socket{
		"   0: 00000000:1920 00000000:0000 0A 00000000:00000000 00:00000000 00000000    70        0 36531 1 0000000000000000 100 0 0 10 0":                        {6432, "00000000:0000", listening, "36531"},
		"   1: 0100007F:1920 0100007F:8B1C 01 00000000:00000000 00:00000000 00000000    70        0 36540 1 0000000000000000 20 4 0 10 -1":                        {6432, "0100007F:8B1C", established, "36540"},
		"   2: 0000000000000000FFFF00000100007F:1920 0000000000000000FFFF00000100007F:8B1E 01 00000000:00000000 00:00000000 00000000 70 0 36541 1 0 20 4 0 10 -1": {6432, "0000000000000000FFFF00000100007F:8B1E", established, "36541"},
	} {
		got, ok := readRow(line)
		require.True(t, ok, line)
		require.Equal(t, want, got)
	}
	for _, line := range []string{"", "  sl  local_address rem_address   st", "0: x y 01 a b c d e 1", "0: 0100007F:FFFFF y 01 a b c d e 1"} {
		_, ok := readRow(line)
		require.False(t, ok, line)
	}
}

// A sidecar's ports and connections are not pgbouncer's.
// The kernel lists a socket twice now and then while others come and go.
func TestReadTable_SocketIsListedTwice_CountsOnce(t *testing.T) {
	const row = "   %d: 0100007F:1920 0100007F:D1%02d 01 00000000:00000000 00:00000000 00000000     0        0 %d 1 0000000000000000 20 4 30 10 -1\n"
	path := filepath.Join(t.TempDir(), "tcp")
	table := "  sl  local_address rem_address   st\n" + fmt.Sprintf(row, 0, 1, 11) + fmt.Sprintf(row, 1, 2, 12) + fmt.Sprintf(row, 2, 1, 11)
	require.NoError(t, os.WriteFile(path, []byte(table), 0o600))
	sockets, err := readTable(path)
	require.NoError(t, err)
	require.Equal(t, []string{"0100007F:D101", "0100007F:D102"}, entrance{ports: []int{6432}}.clients(sockets))
}

func TestEntrance_SocketsOfTheWholePod_OnlyOwnCounted(t *testing.T) {
	all := []socket{
		{6432, "0:0", listening, "1"}, {9127, "0:0", listening, "2"},
		{6432, "a:1", established, "3"}, {6432, "b:1", established, "0"}, {6432, "c:1", "06", "0"}, // b waits to be accepted, c has gone
		{9127, "d:1", established, "4"}, {40000, "e:5432", established, "5"},
	}
	for what, e := range map[string]entrance{"sockets seen": {[]int{6432}, map[string]bool{"1": true}}, "port given": {[]int{6432}, nil}} {
		require.True(t, e.isOpen(all), what)
		require.False(t, e.isOpen(all[1:]), what)
		require.Equal(t, []string{"a:1", "b:1"}, e.clients(all), what)
	}
	require.False(t, entrance{}.isOpen(all), "no port is known")
}
