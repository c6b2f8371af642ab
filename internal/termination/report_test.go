package termination

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

func TestAllGone_EachOutcome_OnlyIfNoPodRemains(t *testing.T) {
	gone, skipped := drain.PodReport{Outcome: drain.Evicted, GoneAt: time.Now()}, drain.PodReport{Outcome: drain.Skipped}
	escorted := drain.PodReport{Outcome: drain.Skipped, Escort: &drain.EscortResult{}}
	for name, c := range map[string]struct {
		pods []drain.PodReport
		want bool
	}{
		"no pod was seen":             {nil, false},
		"one is gone":                 {[]drain.PodReport{gone}, true},
		"one is not gone":             {[]drain.PodReport{gone, {Outcome: drain.Remained}}, false},
		"a DaemonSet's stays":         {[]drain.PodReport{gone, skipped}, true},
		"a DaemonSet's has an escort": {[]drain.PodReport{gone, escorted}, false},
	} {
		require.Equal(t, c.want, Report{Report: drain.Report{Pods: c.pods}}.allGone(), name)
	}
}
