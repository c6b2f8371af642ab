package patroni

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLeaderless_LeaderChanges_LastToFirstWrite(t *testing.T) {
	at := func(seconds float64) time.Time {
		return time.Unix(0, 0).Add(time.Duration(seconds * float64(time.Second)))
	}
	w := &Writes{
		first: map[string]time.Time{"demo-0": at(1), "demo-1": at(7.5), "demo-2": at(2)},
		last:  map[string]time.Time{"demo-0": at(5), "demo-1": at(9), "demo-2": at(3)},
	}
	got, err := w.Leaderless("demo-0", "demo-1")
	require.NoError(t, err)
	require.Equal(t, 2500*time.Millisecond, got)
	for _, never := range [][2]string{{"demo-0", "demo-2"}, {"demo-3", "demo-1"}, {"demo-0", "demo-3"}} {
		_, err := w.Leaderless(never[0], never[1])
		require.Error(t, err, "%v", never)
	}
}
