package journal

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHanging_NoRecentCommit_Listed(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for name, c := range map[string]struct {
		worker Worker
		hangs  bool
	}{
		"a commit just now":                 {Worker{State: Committing, Started: ago(time.Hour), LastCommit: ago(time.Second)}, false},
		"none for long":                     {Worker{State: Working, Started: ago(time.Hour), LastCommit: ago(6 * time.Second)}, true},
		"none yet, and just started":        {Worker{State: Connecting, Started: ago(time.Second)}, false},
		"none since its start long ago":     {Worker{State: Connecting, Started: ago(6 * time.Second)}, true},
		"it keeps failing":                  {Worker{State: Connecting, Since: now, Started: ago(time.Hour), LastCommit: ago(6 * time.Second)}, true},
		"it has stopped":                    {Worker{State: Stopped, Started: ago(time.Hour), LastCommit: ago(6 * time.Second)}, false},
		"its transactions last as long":     {Worker{State: Working, Pace: 8 * time.Second, Started: ago(time.Hour), LastCommit: ago(6 * time.Second)}, false},
		"longer than its transactions last": {Worker{State: Working, Pace: 8 * time.Second, Started: ago(time.Hour), LastCommit: ago(14 * time.Second)}, true},
		"exactly at the limit":              {Worker{State: Working, Started: ago(time.Hour), LastCommit: ago(5 * time.Second)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c.worker.Worker = 7
			hanging := Hanging(Snapshot{Now: now, Workers: []Worker{c.worker}}, 5*time.Second)
			if c.hangs {
				require.Equal(t, []int{7}, hanging)
			} else {
				require.Empty(t, hanging)
			}
		})
	}
}

func TestCompare_WorkerAndRows_Counted(t *testing.T) {
	for name, c := range map[string]struct {
		worker Worker
		rows   []int64
		want   Comparison
	}{
		"what is believed is there":          {Worker{Last: 3}, []int64{3, 1, 2}, Comparison{Committed: 3}},
		"a commit is lost":                   {Worker{Last: 3}, []int64{1, 3}, Comparison{Committed: 3, Lost: 1}},
		"a commit is there twice":            {Worker{Last: 2}, []int64{1, 2, 2}, Comparison{Committed: 2, Repeated: 1}},
		"an abort is not there":              {Worker{Last: 2, Aborted: []int64{2}}, []int64{1}, Comparison{Committed: 1, Aborted: 1}},
		"an abort is there":                  {Worker{Last: 2, Aborted: []int64{2}}, []int64{1, 2}, Comparison{Committed: 1, Aborted: 1, Unexpected: 1}},
		"a failure at COMMIT is not there":   {Worker{Last: 2, Ambiguous: []int64{2}}, []int64{1}, Comparison{Committed: 1, Ambiguous: 1}},
		"a failure at COMMIT is there":       {Worker{Last: 2, Ambiguous: []int64{1}}, []int64{1, 2}, Comparison{Committed: 1, Ambiguous: 1, AmbiguousCommitted: 1}},
		"a failure at BEGIN is not there":    {Worker{Last: 2, Skipped: []int64{1}}, []int64{2}, Comparison{Committed: 1}},
		"a failure at BEGIN is there":        {Worker{Last: 2, Skipped: []int64{1}}, []int64{1, 2}, Comparison{Committed: 1, Unexpected: 1}},
		"the one under way is not there":     {Worker{Last: 2, InFlight: 2}, []int64{1}, Comparison{Committed: 1, InFlight: 1}},
		"the one under way is there already": {Worker{Last: 2, InFlight: 2}, []int64{1, 2}, Comparison{Committed: 1, InFlight: 1}},
		"a number that was never taken":      {Worker{Last: 1}, []int64{1, 2}, Comparison{Committed: 1, Unexpected: 1}},
		"nothing was tried":                  {Worker{}, nil, Comparison{}},
	} {
		t.Run(name, func(t *testing.T) {
			c.worker.Worker = 4
			require.Equal(t, c.want, Compare([]Worker{c.worker}, map[int][]int64{4: c.rows}))
		})
	}
}

func TestCompare_SeveralWorkers_Summed(t *testing.T) {
	workers := []Worker{{Worker: 1, Last: 2}, {Worker: 2, Last: 1}}
	rows := map[int][]int64{1: {1, 2}, 2: {1}}
	require.Equal(t, Comparison{Committed: 3}, Compare(workers, rows))
}

func TestCompare_UnknownWorker_Unexpected(t *testing.T) {
	require.Equal(t, Comparison{Unexpected: 2}, Compare(nil, map[int][]int64{9: {1, 2, 2}}))
}

func TestSnapshot_JSON_RoundTrips(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	sent := Snapshot{Now: at, Workers: []Worker{{
		Worker: 3, State: Committing, Since: at, Committed: 9, Last: 12, InFlight: 12, Skipped: []int64{1}, Aborted: []int64{2},
		Ambiguous: []int64{}, Started: at, LongestStall: 1200 * time.Millisecond,
	}}}
	wire, err := json.Marshal(sent)
	require.NoError(t, err)
	var got Snapshot
	require.NoError(t, json.Unmarshal(wire, &got))
	require.Equal(t, sent, got)
}
