package database

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadPgbench_Report_Counted(t *testing.T) {
	r, err := readPgbench(`pgbench (17.9 (Debian 17.9-0+deb13u1))
transaction type: <builtin: TPC-B (sort of)>
pgbench: error: client 3 script 0 aborted in command 4 query 0: ERROR:  server login has been failing
pgbench: error: client 3 script 0 aborted in command 4 query 0: FATAL:  again
pgbench: error: client 11 aborted while establishing connection
number of transactions actually processed: 1068
number of failed transactions: 2 (0.187%)
pgbench: error: Run was aborted; the above results are incomplete.
`)
	require.NoError(t, err)
	require.Equal(t, []int{1068, 2, 2}, []int{r.Processed, r.Failed, r.Aborted})
}

func TestReadPgbench_NoReport_ErrorHasLog(t *testing.T) {
	_, err := readPgbench("pgbench: error: connection refused")
	require.ErrorContains(t, err, "connection refused")
}
