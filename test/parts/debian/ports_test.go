package debian

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const claimed = "QUIESCE_TEST_CLAIM"

// A test of another package may still connect to the port of a server that has ended.
func TestClaim_PortOfAnotherProcess_IsNotGivenAgain(t *testing.T) {
	if port, err := strconv.Atoi(os.Getenv(claimed)); err == nil {
		fmt.Println(claim(port))
		return
	}
	port, err := FreePort()
	require.NoError(t, err)
	require.ErrorIs(t, claim(port), errClaimed, "this process has it")
	for port, says := range map[int]string{port: errClaimed.Error(), 1: "<nil>"} {
		other := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$")
		other.Env = append(os.Environ(), fmt.Sprintf("%s=%d", claimed, port))
		output, err := other.CombinedOutput()
		require.NoError(t, err, "%s", output)
		require.True(t, strings.HasPrefix(string(output), says+"\n"), "port %d: %s", port, output)
	}
}
