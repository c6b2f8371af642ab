package termination

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"
)

// maxListedRetained bounds how many retained instances a report lists: the oldest. The rest are counted.
const maxListedRetained = 20

// retainedStates are the states of instances whose termination was abandoned. They run, and bill, until someone terminates them
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/configure-instance-retention.html).
var retainedStates = []string{retained, "Warmed:Pending:Retained", "Warmed:Terminating:Retained"}

// RetainedInstance is an instance that its group keeps, because its termination was abandoned.
type RetainedInstance struct {
	InstanceID string    `json:"instanceId"`
	Group      string    `json:"group"`
	Since      time.Time `json:"since,omitzero"` // when its termination ended; zero: unknown
	AgeSeconds *float64  `json:"ageSeconds"`     // since then; nil: unknown
}

// noteRetained adds an instance to the report if its group retains it.
func (s *sweep) noteRetained(group string, i Instance) {
	if i.isRetained() {
		s.report.Retained = append(s.report.Retained, RetainedInstance{InstanceID: i.ID, Group: group})
	}
}

// ageRetained learns how long instances have been retained: since their termination ended. It asks only about groups that have such an
// instance. An age that no activity tells stays unknown: Auto Scaling keeps activities for six weeks.
func (s *sweep) ageRetained(ctx context.Context) {
	ids := map[string][]string{}
	for _, r := range s.report.Retained {
		ids[r.Group] = append(ids[r.Group], r.InstanceID)
	}
	ends := s.readTerminationEnds(ctx, ids)
	for n := range s.report.Retained {
		r := &s.report.Retained[n]
		if r.Since = ends[r.InstanceID]; !r.Since.IsZero() {
			r.AgeSeconds = new(time.Since(r.Since).Round(time.Second).Seconds())
		}
	}
	slices.SortFunc(s.report.Retained, compareAges)
	if more := len(s.report.Retained) - maxListedRetained; more > 0 {
		s.report.Retained, s.report.RetainedOmitted = s.report.Retained[:maxListedRetained], more
	}
}

// readTerminationEnds returns when the terminations of these instances ended. ids has the instances by group.
func (s *sweep) readTerminationEnds(ctx context.Context, ids map[string][]string) map[string]time.Time {
	var groups []string
	for group := range ids {
		groups = append(groups, group)
	}
	slices.Sort(groups)
	all := map[string]time.Time{}
	s.forEach(ctx, "activities of retained instances", len(groups), func(n int) {
		ends, err := s.Groups.TerminationEnds(ctx, groups[n], ids[groups[n]]...)
		s.addError(err)
		s.mutex.Lock()
		defer s.mutex.Unlock()
		for id, at := range ends {
			all[id] = at
		}
	})
	return all
}

// compareAges sorts the oldest first. Those of unknown age come last.
func compareAges(a, b RetainedInstance) int {
	switch {
	case a.Since.IsZero() != b.Since.IsZero() && a.Since.IsZero():
		return 1
	case a.Since.IsZero() != b.Since.IsZero():
		return -1
	}
	return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.InstanceID, b.InstanceID))
}

// RetainedCount returns how many instances are retained, those that the report omits included.
func (r SweepReport) RetainedCount() int { return len(r.Retained) + r.RetainedOmitted }

// OldestRetained returns how long the oldest retained instance has been so, and whether any age is known.
func (r SweepReport) OldestRetained() (age time.Duration, known bool) {
	if len(r.Retained) == 0 || r.Retained[0].AgeSeconds == nil {
		return 0, false
	}
	return time.Duration(*r.Retained[0].AgeSeconds * float64(time.Second)), true
}
