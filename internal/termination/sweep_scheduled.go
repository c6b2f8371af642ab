package termination

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"quiesce/internal/drain"
)

// replaceScheduled looks at scheduled changes, once an hour. The cluster's name decides when, so that the clusters of an account do not
// ask together. Nothing is kept.
func (s *sweep) replaceScheduled(ctx context.Context) {
	if !s.Policy.OnScheduledChange || !isTurn(s.Policy.Cluster, s.report.StartedAt) {
		return
	}
	changes, err := s.Groups.ScheduledChanges(ctx)
	if err != nil {
		s.addError(err)
		return
	}
	s.replaceAll(ctx, changes)
}

// replaceAll replaces the instances of our groups whose time has come, and reports all changes of our instances in service. Instances in
// other states and groups that are being deleted are terminating, or run no pods yet.
func (s *sweep) replaceAll(ctx context.Context, changes []ScheduledChange) {
	groups, ours := s.changesOfGroups(changes)
	chosen := make([][]ScheduledChange, len(groups))
	s.forEach(ctx, "groups with scheduled changes", len(groups), func(n int) {
		chosen[n] = chooseReplacements(groups[n], ours[groups[n].Name], s.Policy.Bounds.MaxDuration, time.Now())
		s.keepUnhooked(ctx, groups[n].Name, chosen[n])
	})
	all := slices.Concat(chosen...)
	slices.SortFunc(all, compareChanges) // the earliest is replaced first
	var replaced []*ScheduledChange
	for n := range all {
		if all[n].Replaced {
			all[n].Replaced = false
			replaced = append(replaced, &all[n])
		}
	}
	s.inOrder(ctx, "scheduled changes", len(replaced), func(n int) { s.replace(ctx, replaced[n]) })
	s.reportScheduled(all)
}

// changesOfGroups returns our groups that have scheduled changes, and the changes of their instances in service by the group's name.
func (s *sweep) changesOfGroups(changes []ScheduledChange) (groups []Group, ours map[string][]ScheduledChange) {
	byInstance := map[string][]ScheduledChange{}
	for _, c := range changes {
		byInstance[c.InstanceID] = append(byInstance[c.InstanceID], c)
	}
	ours = map[string][]ScheduledChange{}
	for _, group := range s.groups {
		for _, i := range group.Instances {
			for _, c := range byInstance[i.ID] {
				if c.Group = group.Name; i.State == inService && !group.Deleting {
					ours[group.Name] = append(ours[group.Name], c)
				}
			}
		}
		if len(ours[group.Name]) > 0 {
			groups = append(groups, group)
		}
	}
	return groups, ours
}

// keepUnhooked takes back the choice of instances that must stay: in shadow mode nothing is changed, and without our hook their pods
// would die unsignaled.
func (s *sweep) keepUnhooked(ctx context.Context, group string, changes []ScheduledChange) {
	if !slices.ContainsFunc(changes, func(c ScheduledChange) bool { return c.Replaced }) {
		return
	}
	reason := "shadow mode: would be replaced now"
	if !s.Policy.Shadow {
		hook, err := s.Hooks.Describe(ctx, group, s.Policy.Hook)
		switch {
		case err == nil && !hook.Launching:
			return
		case err == nil || errors.Is(err, ErrNoHook):
			reason = fmt.Sprintf("group %s has no hook %s: its pods would die unsignaled", group, s.Policy.Hook)
		default:
			reason = err.Error()
			s.addError(err)
		}
	}
	for n := range changes {
		if c := &changes[n]; c.Replaced {
			c.Replaced, c.Reason, c.atRisk = false, reason, !s.Policy.Shadow && s.isShort(*c)
		}
	}
}

func (s *sweep) isShort(c ScheduledChange) bool {
	return c.isShort(time.Now(), s.Policy.Bounds.MaxDuration)
}

// replace begins the termination of an instance, unless it is terminating: the description of its group can be as old as the sweep. The
// lifecycle hook holds it then, and its event starts the drain. If another look was faster, an error says nothing.
func (s *sweep) replace(ctx context.Context, c *ScheduledChange) {
	leaves, err := s.isLeaving(ctx, c)
	if err == nil && !leaves {
		if err = s.Groups.Terminate(ctx, c.InstanceID); err == nil {
			c.Replaced = true
			return
		}
		leaves, _ = s.isLeaving(ctx, c)
	}
	if err != nil && !leaves {
		c.Reason, c.atRisk = drain.Short(err.Error()), s.isShort(*c)
		s.addError(err)
	}
}

// isLeaving reports whether the instance is not in service any more, and notes why.
func (s *sweep) isLeaving(ctx context.Context, c *ScheduledChange) (bool, error) {
	i, err := s.Groups.Instance(ctx, c.InstanceID)
	if err != nil || i.Group == c.Group && i.State == inService {
		return false, err
	}
	c.Reason = "is already " + cmp.Or(i.State, "gone")
	return true, nil
}

// reportScheduled puts the changes, in order of time, into report, log and metrics.
func (s *sweep) reportScheduled(all []ScheduledChange) {
	counts := ScheduledCounts{Found: len(all)}
	for n, c := range all {
		if c.Replaced {
			counts.Replaced++
		}
		if c.atRisk {
			counts.AtRisk++
		}
		if n < maxScheduledChanges {
			s.logScheduled(c)
		}
	}
	s.report.ScheduledChanges = all[:min(len(all), maxScheduledChanges)]
	s.report.ScheduledChangesOmitted = len(all) - len(s.report.ScheduledChanges)
	if s.Metrics != nil {
		s.Metrics.ScheduledChanges(counts)
	}
}

// logScheduled has no key instance: the dashboard takes each line with one for a drain.
func (s *sweep) logScheduled(c ScheduledChange) {
	switch {
	case c.Replaced:
		s.Log.Info("instance replaced before a scheduled change", "change", c)
	case c.atRisk:
		s.Log.Warn("instance not replaced before a scheduled change", "change", c)
	default:
		s.Log.Info("scheduled change found", "change", c)
	}
}
