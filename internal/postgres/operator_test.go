package postgres

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// operatorReaction is how long Zalando's operator takes to see a cordon.
const operatorReaction = 300 * time.Millisecond

// standIn simulates what Zalando's operator 2.0.1 does when the master's node is cordoned. It is a stand-in: the operator does not run. It asks
// the leader for a switchover, once. An answer that is an error is the end: the operator's own retry ends with the first one
// (https://github.com/zalando/postgres-operator/issues/2749). That it first deletes a candidate on a cordoned node is simulated by
// test/env/patroni only: this world has no scheduler.
type standIn struct {
	*world
	cordoned []string // members on cordoned nodes
	asked    int
	accepted int
}

// cordon cordons the node of a member, by hand.
func (o *standIn) cordon(member string) {
	o.cordoned = append(o.cordoned, member)
	o.locked(operatorReaction, o.react)
}

// react moves the leader off its node, if it is still there. The caller holds the mutex.
func (o *standIn) react() {
	leader := o.leader
	if !slices.Contains(o.cordoned, leader) {
		return
	}
	candidate := slices.MaxFunc(slices.Sorted(maps.Keys(o.members)), func(a, b string) int { // another one than quiesce chooses
		return rankOf(a, leader) - rankOf(b, leader)
	})
	if o.asked++; o.stopping {
		return // Patroni answers 503: the leader switches over already
	}
	o.accepted++
	o.demote(candidate)
}

func rankOf(name, leader string) int {
	if name == leader {
		return -1
	}
	return int(name[len(name)-1])
}

// Somebody cordons the primary's node by hand while quiesce moves the primary, at each moment of the move. There is one switchover, to
// whichever candidate, or quiesce holds and names the other.
func TestRun_OperatorAnswersACordon_OneSwitchoverOrAHold(t *testing.T) {
	held, moved := 0, 0
	for _, rest := range []bool{false, true} {
		for delay := time.Duration(0); delay < 16*time.Second; delay += 130 * time.Millisecond {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld().withAlias()
				w.pace = 20 * time.Millisecond
				operator := &standIn{world: w}
				w.locked(delay, func() { operator.cordon("pg-0") })
				e, i := w.escort()
				if rest {
					e.Asker, e.ConnectVia = i, config.ViaPodIP
				}
				result, err, alive := w.runAs(t, e, i, "pg-0")
				require.True(t, alive)
				w.requireNothingPaused(t)
				require.Less(t, w.longest(), 12*time.Second, "another's switchover is seen at once")
				if waiting, is := errors.AsType[*drain.Held](err); is {
					held++
					require.Regexp(t, "leader|asked for|refused|stream", waiting.Reason)
				} else {
					require.NoError(t, err, delay)
					moved++
				}
				time.Sleep(time.Minute) // what was asked for late would happen by now
				w.mutex.Lock()
				defer w.mutex.Unlock()
				require.Equal(t, 2, w.timeline, "one switchover: delay %v, rest %t, %v, %v\n%v", delay, rest, err, result.Reason, w.effects)
				require.NotEqual(t, "pg-0", w.leader)
				require.LessOrEqual(t, operator.asked, 1)
			})
		}
	}
	require.Positive(t, held, "never was quiesce late")
	require.Positive(t, moved)
}
