package termination

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// replaceLead is how long before a scheduled change its instance is replaced, unless a drain takes long. In a day of hourly looks the
	// instances of a group can follow one another. Earlier, EC2 may yet cancel the change or a person reschedule it.
	replaceLead = 24 * time.Hour
	// replaceReserve is what must be left beside the longest drain. When less is left, a group's remaining instances are replaced together.
	// Two hours are two looks, of which one may fail, and the time in which AWS begins what it was asked for. More would give up the
	// order one by one earlier.
	replaceReserve = 2 * time.Hour
	// replaceWindow is what is left for one instance after the other, however long a drain is: twelve hourly looks. Longer, EC2 may cancel the
	// change after the instance has gone.
	replaceWindow = 12 * time.Hour
	// maxScheduledChanges bounds how many changes a report and the log name. The rest are counted.
	maxScheduledChanges = 50
)

// ScheduledChange is a reboot, a stop, a retirement or maintenance that EC2 has scheduled for an instance, and what was done about it.
type ScheduledChange struct {
	InstanceID string    `json:"instanceId"`
	Group      string    `json:"group"`
	Code       string    `json:"code"` // EC2's, such as instance-retirement
	NotBefore  time.Time `json:"notBefore,omitzero"`
	Replaced   bool      `json:"replaced"`         // its termination was begun
	Reason     string    `json:"reason,omitempty"` // why it was not
	atRisk     bool      // time is short, and it was not replaced
}

// ScheduledCounts is what a look at scheduled changes found and did.
type ScheduledCounts struct {
	Found    int // instances of ours with a scheduled change
	Replaced int
	AtRisk   int // not replaced although time is short
}

// isShort reports whether time for replacing one after the other has run out. A change that has begun is one too. An unknown time is not
// short: it must not replace all instances of a group together.
func (c ScheduledChange) isShort(now time.Time, longestDrain time.Duration) bool {
	return !c.NotBefore.IsZero() && c.NotBefore.Sub(now) < longestDrain+replaceReserve
}

// chooseReplacements decides which instances of a group are to be replaced now: Replaced says so, and else Reason says why not. One
// instance goes at a time, the one whose change is the earliest, and only while the group is whole. Once time is short, all go. The
// choice is the same for everyone who sees the same, so that two looks at the same time choose the same instance.
func chooseReplacements(group Group, changes []ScheduledChange, longestDrain time.Duration, now time.Time) []ScheduledChange {
	busy, lead := group.whyBusy(), max(replaceLead, longestDrain+replaceReserve+replaceWindow)
	chosen := earliestOfEach(changes)
	for n := range chosen {
		c := &chosen[n]
		left := c.NotBefore.Sub(now)
		switch {
		case c.isShort(now, longestDrain):
			c.Replaced = true
		case !c.NotBefore.IsZero() && left >= lead:
			c.Reason = "is replaced from " + c.NotBefore.Add(-lead).UTC().Format(time.RFC3339)
		case group.instance(c.InstanceID).Protected:
			c.Reason = "is protected from scale-in: replaced when time is short"
		case busy != "":
			c.Reason = busy
		default:
			c.Replaced = true
		}
		if c.Replaced {
			busy = "waits for " + c.InstanceID
		}
	}
	return chosen
}

// earliestOfEach returns the earliest change of each instance, in order of time.
func earliestOfEach(changes []ScheduledChange) []ScheduledChange {
	sorted := slices.Clone(changes)
	slices.SortFunc(sorted, compareChanges)
	seen := map[string]bool{}
	return slices.DeleteFunc(sorted, func(c ScheduledChange) bool {
		known := seen[c.InstanceID]
		seen[c.InstanceID] = true
		return known
	})
}

func compareChanges(a, b ScheduledChange) int {
	return cmp.Or(a.NotBefore.Compare(b.NotBefore), strings.Compare(a.InstanceID, b.InstanceID), strings.Compare(a.Code, b.Code))
}

// whyBusy returns why no instance of the group may leave now; empty: one may.
func (g Group) whyBusy() string {
	for _, i := range g.Instances {
		if strings.HasPrefix(i.State, "Terminating") && i.State != retained {
			return fmt.Sprintf("waits: %s is terminating", i.ID)
		}
	}
	if g.Missing > 0 {
		return "waits: the group has less capacity in service than desired"
	}
	return ""
}

// instance returns the group's instance of this ID. If the group does not have it, its state is empty.
func (g Group) instance(id string) Instance {
	if n := slices.IndexFunc(g.Instances, func(i Instance) bool { return i.ID == id }); n >= 0 {
		return g.Instances[n]
	}
	return Instance{ID: id}
}

// lookAtNamed looks at scheduled changes at once, because an AWS Health event names instances. What EC2 says of them decides: the event may
// be forged, or say that a change is over. The look itself is that of a sweep.
func (h *Handler) lookAtNamed(ctx context.Context, claim Claim) (Report, error) {
	report := Report{Status: StatusSkipped, Trigger: HealthEvent, StartedAt: time.Now(), Version: h.Version, Commit: h.Commit}
	if !h.Policy.OnScheduledChange {
		report.Reason = string(HealthEvent) + ": drain.onScheduledChange is off"
		return report, nil
	}
	ctx, cancel := boundInvocation(ctx)
	defer cancel()
	ctx, stop := context.WithTimeoutCause(ctx, sweepTimeout, errSweepOver)
	defer stop()
	s := h.newSweep()
	changes, err := s.Groups.ScheduledChanges(ctx)
	named := func(c ScheduledChange) bool { return slices.Contains(claim.InstanceIDs, c.InstanceID) }
	if err == nil && !slices.ContainsFunc(changes, named) {
		report.Reason = string(HealthEvent) + ": EC2 has scheduled no change of these instances"
		return report, nil
	}
	if err == nil {
		err = s.readGroups(ctx)
	}
	if err != nil {
		report.Status, report.Reason = StatusFailed, err.Error()
		return report, &Failed{err}
	}
	s.replaceAll(ctx, changes)
	report.Status, report.FinishedAt = StatusSwept, time.Now()
	report.ScheduledChanges, report.ScheduledChangesOmitted = s.report.ScheduledChanges, s.report.ScheduledChangesOmitted
	report.Reason = strings.Join(slices.Concat(s.report.Errors, s.report.Unreached), "; ")
	return report, nil
}
