package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLogPrinter_MetricLine_Skipped(t *testing.T) {
	var out bytes.Buffer
	n := &logPrinter{out: &out}
	_, err := n.Write([]byte(`{"time":"2026-11-21T08:15:30.214Z","msg":"pod gone","pod":"app/web"}
{"Cluster":"lab","PodsEvicted":9,"_aws":{"Timestamp":1795249530214}}
{"time":"2026-11-21T08:15:30.3Z","msg":"event handled"}
START RequestId
`))
	require.NoError(t, err)
	require.Equal(t, "  08:15:30.214  pod gone                   app/web  \n", out.String())
}
