package termination

import (
	"context"
	"fmt"
)

// isOurs reports whether the group of the termination is ours. Mostly its name says so. Where tags count too, AWS is asked for those of
// the group that an event names: the event has none. The answer serves describePeers too. An error says nothing about the group.
func (j *job) isOurs(ctx context.Context) (bool, error) {
	switch {
	case j.owned || j.Group == "":
	case j.Policy.Owns(j.Group, nil):
		j.owned = true
	case j.Policy.GroupsByTag:
		group, err := j.Groups.Group(ctx, j.Group)
		if err != nil {
			return false, err
		}
		j.group, j.owned = &group, j.Policy.Owns(j.Group, group.Tags)
	}
	return j.owned, nil
}

func notOurGroup(name string) string { return fmt.Sprintf("group %s is not managed by quiesce", name) }
