package postgres

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// TestCNPG_EverySeed_KeepsPromises moves a primary of CloudNativePG, once for each seed. The seed decides what fails, when invocations die,
// and what somebody else does. A member is evicted only while its cluster rests, a target is written only then and under a pause, and in
// the end nothing is paused and the primary is off its node.
func TestCNPG_EverySeed_KeepsPromises(t *testing.T) {
	counts := map[string]int{}
	seeds := number(t, "SEEDS", defaultSeeds)
	from := 1
	if seed := number(t, "SEED", 0); seed > 0 {
		from, seeds = seed, seed
	}
	for seed := from; seed <= seeds; seed++ {
		bubble.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 1))
			c := randomCNPGWorld(r)
			moveRandomly(t, r, c, counts)
			story := fmt.Sprintf("seed %d: %s", seed, strings.Join(c.effects, "; "))
			require.False(t, c.early, story)
			require.Empty(t, c.broken, story)
			require.NotEqual(t, "pg-0", c.leader, story)
			require.Contains(t, c.evicted, "pg-0", story)
			for name, p := range c.poolers {
				require.Empty(t, p.paused, "%s: %s", name, story)
				require.Equal(t, "15", p.retry, "%s: %s", name, story)
				require.LessOrEqual(t, p.longest, 75*time.Second, story) // the limit, a dead holder's Lease and the sweep
			}
		})
	}
	t.Logf("%d seeds: %v", seeds, counts)
	for _, what := range []string{"killed", "moved", "conflict", "answer lost", "discarded", "late", "somebody else", "not quiet"} {
		require.True(t, counts[what] > 0 || seeds < defaultSeeds, "nothing was met: %s", what)
	}
}

// randomCNPGWorld returns a world in which some things fail for a while.
func randomCNPGWorld(r *rand.Rand) *cnpgWorld {
	c := newCNPGWorld()
	c.conflicts = max(0, r.IntN(12)-5)
	if r.IntN(4) == 0 {
		c.lostAfter = errors.New("connection reset")
	}
	if r.IntN(4) == 0 {
		c.takes = time.Duration(r.IntN(90)) * time.Second
	}
	if r.IntN(6) == 0 {
		c.behavior = "discarded"
	}
	if r.IntN(6) == 0 {
		c.grows = 5000
	}
	for _, p := range c.poolers {
		p.busy = time.Duration(r.IntN(3000)) * time.Millisecond
	}
	time.AfterFunc(4*time.Minute, func() { // from then on nothing fails
		c.mutex.Lock()
		defer c.mutex.Unlock()
		c.conflicts, c.lostAfter, c.takes, c.behavior, c.grows = 0, nil, 0, "cnpg", 0
	})
	return c
}

// moveRandomly has invocations follow each other until the member is evicted. Some die, and somebody else asks for a switchover.
func moveRandomly(t *testing.T, r *rand.Rand, c *cnpgWorld, counts map[string]int) {
	note := func(what string, met bool) {
		if met {
			counts[what]++
		}
	}
	note("conflict", c.conflicts > 0)
	note("answer lost", c.lostAfter != nil)
	note("discarded", c.behavior == "discarded")
	note("late", c.takes > 30*time.Second)
	note("not quiet", c.grows > 0)
	if r.IntN(4) == 0 {
		counts["somebody else"]++
		time.AfterFunc(time.Duration(r.IntN(60_000))*time.Millisecond, func() { c.somebodySwitches("pg-2") })
	}
	began := time.Now()
	for range 40 {
		if time.Since(began) < 3*time.Minute && r.IntN(3) == 0 {
			c.mutex.Lock()
			c.kill = len(c.effects) + 1 + r.IntN(14)
			c.mutex.Unlock()
		}
		_, err, alive := c.runInstance(t, "pg-0", func(r *drain.EscortRequest) { r.EvictBy = began.Add(14 * time.Minute) })
		note("killed", !alive)
		if alive && err == nil && slices.Contains(c.evicted, "pg-0") {
			counts["moved"]++
			break
		}
		c.mutex.Lock()
		c.kill = 0
		c.mutex.Unlock()
		e, _ := c.view()
		_, _, _ = e.Resume(t.Context()) // as the sweep does
		time.Sleep(time.Duration(1+r.IntN(30)) * time.Second)
	}
	e, _ := c.view()
	time.Sleep(31 * time.Second) // the Lease of one that died at the end
	_, _, err := e.Resume(t.Context())
	require.NoError(t, err)
}

// somebodySwitches is `kubectl cnpg promote` by somebody else.
func (c *cnpgWorld) somebodySwitches(candidate string) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.target != c.leader || c.leader == candidate || c.phase != cnpgHealthy {
		return
	}
	c.version++
	c.target, c.phase, c.serviceTo = candidate, "Switchover in progress", ""
	c.effects = append(c.effects, "somebody asks for "+candidate)
	c.locked(max(c.takes, promotionTime), c.promoteInstance)
}
