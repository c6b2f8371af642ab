package kube

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// A node that is cordoned again does not lose that its action is kept open. Another termination has its own reasons.
func TestNewClosing_ActionKeptOpen_StaysSoForThisTermination(t *testing.T) {
	began := time.Now()
	earlier := termination.ClosedNode{Name: "node-1", UID: "uid-1", Hook: "quiesce", Began: began, CordonedAt: began, KeptOpen: true}
	for name, c := range map[string]struct {
		began time.Time
		want  bool
	}{
		"the same": {began, true}, "a later one": {began.Add(time.Hour), false},
		"the same, as the activities say": {began.Add(-90 * time.Second), true}, "the same, read from JSON": {began.Truncate(time.Millisecond), true},
	} {
		closing := newClosing(drain.Node{Name: "node-1", UID: "uid-1"}, termination.Closing{Hook: "quiesce", Began: c.began, Earlier: &earlier})
		require.Equal(t, c.want, closing.node.KeptOpen, name)
	}
}
