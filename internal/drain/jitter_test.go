package drain

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/bubble"
)

func TestJitter_ManyNames_SpreadAndRepeatable(t *testing.T) {
	const names, most = 1000, time.Second
	bubble.Test(t, func(t *testing.T) {
		tenths := make([]int, 10)
		for n := range names {
			jitter := Jitter(fmt.Sprint("i-", n), most)
			require.Equal(t, jitter, Jitter(fmt.Sprint("i-", n), most))
			tenths[jitter*10/most]++
		}
		for _, n := range tenths {
			require.InDelta(t, names/10, n, names/20)
		}
		before := Jitter("i-0", most)
		time.Sleep(time.Second)
		require.NotEqual(t, before, Jitter("i-0", most))
	})
	require.Zero(t, Jitter("i-0", 0))
}
