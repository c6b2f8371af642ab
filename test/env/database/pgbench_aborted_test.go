package database

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAbortedIn_RepeatedLines_EachClientOnce(t *testing.T) {
	log := "pgbench: error: client 3 script 0 aborted in command 5\npgbench: error: client 3 aborted\nclient 7 aborted while receiving\nclient 4 sends\n"
	require.Equal(t, map[string]bool{"3": true, "7": true}, abortedIn(log))
	require.Empty(t, abortedIn("all is well"))
}
