package drain

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPace_Answered_CountsWhatTheServerSaid(t *testing.T) {
	for name, c := range map[string]struct {
		got  response
		want int // evictions in flight after as many such answers as are in flight now
	}{
		"accepted":               {got: response{evicted: true}, want: 8},
		"accepted slowly":        {got: response{evicted: true, evictTook: promptAnswer + 1}, want: 5},
		"blocked by a PDB":       {got: response{err: fmt.Errorf("evict: %w", &Blocked{}), evicted: true}, want: 8},
		"blocked, nobody asked":  {got: response{err: &Blocked{Unasked: true}, evicted: true}, want: 4},
		"denied by a webhook":    {got: response{err: &Refused{}, evicted: true}, want: 8},
		"a webhook that is away": {got: response{err: errors.New("failed calling webhook"), evicted: true}, want: 5},
		"throttled":              {got: response{err: &Throttled{}, evicted: true}, want: 4},
		"an escort's eviction":   {got: response{inFlight: true}, want: 8},
		"the end of an escort":   {got: response{escort: &EscortResult{}}, want: 4},
	} {
		t.Run(name, func(t *testing.T) {
			p := pace{limit: 16, now: 4}
			for range 4 {
				p.answered(c.got)
			}
			require.Equal(t, c.want, p.now)
		})
	}
}

func TestPace_AfterThrottling_GrowsByOneForEachRound(t *testing.T) {
	p := newPace(16)
	for range 14 {
		p.answered(response{evicted: true})
	}
	require.Equal(t, 16, p.now, "three rounds: 4, 8, 16")
	p.throttled(&Throttled{}, time.Now(), time.Now())
	require.Equal(t, 8, p.now)
	for range 8 {
		p.answered(response{evicted: true})
	}
	require.Equal(t, 9, p.now)
}
