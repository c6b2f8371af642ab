package timeline

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
)

func TestRead_EachForm_SameReports(t *testing.T) {
	first, second := sample()
	encode := func(value any) string {
		encoded, err := json.Marshal(value)
		require.NoError(t, err)
		return string(encoded)
	}
	for name, text := range map[string]string{
		"one after the other": encode(first) + "\n" + encode(second),
		"list":                encode([]termination.Report{first, second}),
		"log": fmt.Sprintf("%s\n%s\n%s\n", `{"time":"2026-03-02T04:05:06Z","level":"INFO","msg":"pod evicted"}`,
			encode(map[string]any{"msg": "event handled", "report": first}), encode(map[string]any{"msg": "event handled", "report": second})),
	} {
		reports, err := Read(strings.NewReader(text))
		require.NoError(t, err, name)
		require.Equal(t, Join([]termination.Report{first, second}), Join(reports), name)
	}
}

func TestRead_NoReport_ErrorSaysWhere(t *testing.T) {
	_, err := Read(strings.NewReader(`{"status":"drained"} {"status":1}`))
	require.ErrorContains(t, err, "JSON value 2 is no report")
	_, err = Read(strings.NewReader(`2026-03-02 event handled`))
	require.ErrorContains(t, err, "JSON value")
}
