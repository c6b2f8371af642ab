package doctor

import (
	"fmt"
	"slices"

	"quiesce/internal/postgres"
)

var databaseChecks = []check{
	{"database-unknown", (*view).unknownDatabases},
	{"database-candidate", (*view).primariesWithoutCandidate},
	{"database-sync", (*view).shortOfStandbys},
	{"database-held", (*view).heldPrimaries},
}

func (d Database) where() string { return fmt.Sprintf("database %s (%s)", d.String(), d.Operator) }

func (v *view) unknownDatabases() (found []Finding) {
	for _, d := range v.Databases {
		if d.Failure != "" {
			found = append(found, Finding{
				Where: d.where(), Severity: Info, What: "cannot be looked at: " + d.Failure,
				Cost: "its primary may have no candidate, and doctor cannot tell", Fix: "run doctor with permissions for the objects of its operator",
			})
		}
	}
	return found
}

// elsewhere returns the members that could lead when the leader's node leaves: Ready, on another node that stays.
func elsewhere(d Database, leader postgres.Member) (found []postgres.Member) {
	for _, m := range d.Members {
		if m.Name != leader.Name && m.Ready && !m.Terminating && m.Node != leader.Node && m.Leaving == "" && !m.NoFailover {
			found = append(found, m)
		}
	}
	return found
}

func (v *view) primariesWithoutCandidate() (found []Finding) {
	for _, d := range v.Databases {
		leader := d.LeaderMember()
		if d.Failure != "" || leader == nil || len(elsewhere(d, *leader)) > 0 {
			continue
		}
		f := Finding{
			Where: d.where(), Severity: Critical, What: fmt.Sprintf("no other member could lead: primary %s is on node %s", leader.Name, leader.Node),
			Cost:    "when the node leaves, the database is down until its pod runs elsewhere",
			Fix:     "run a replica on another node: spread the members by kubernetes.io/hostname",
			Command: fmt.Sprintf("kubectl get pods -n %s -o wide", d.Namespace),
		}
		if len(d.Members) == 1 {
			f.Severity, f.What = Warning, "it has one member only, "+leader.Name+" on node "+leader.Node
		}
		found = append(found, f)
	}
	return found
}

// shortOfStandbys finds clusters whose writes stop when one node leaves.
func (v *view) shortOfStandbys() (found []Finding) {
	for _, d := range v.Databases {
		leader := d.LeaderMember()
		if d.Failure != "" || leader == nil || !d.Synchronous {
			continue
		}
		if others := elsewhere(d, *leader); len(others) == 1 && d.Strict {
			found = append(found, Finding{
				Where: d.where(), Severity: Warning, What: "only " + others[0].Name + " can be its synchronous standby, and writes need one",
				Cost: "writes stop when the standby's node leaves, until it is back", Fix: "run one more replica on a third node",
			})
		}
	}
	return found
}

// heldPrimaries finds primaries that quiesce would not move now, though a candidate is there.
func (v *view) heldPrimaries() (found []Finding) {
	settings := v.databaseSettings()
	for _, d := range v.Databases {
		leader := d.LeaderMember()
		if d.Failure != "" || leader != nil && len(elsewhere(d, *leader)) == 0 {
			continue // another check says so
		}
		holds := slices.Clone(d.Holds)
		if d.LeaderLive {
			holds = postgres.Assess(d.Facts, settings, v.Now).Holds
		} else {
			holds = append(holds, atRest(d)...)
		}
		for _, hold := range holds {
			found = append(found, Finding{
				Where: d.where(), Severity: Warning, What: "its primary would be held: " + hold,
				Cost: "a drain keeps the primary's node until that ends, or the deadline is reached", Fix: "look the reason up in infra/RUNBOOK.md#why-a-primary-is-held",
			})
		}
	}
	return found
}

// atRest returns what the operator's objects say, where no member answers, of why the primary must not be disturbed.
func atRest(d Database) (holds []string) {
	if d.LeaderMember() == nil {
		holds = append(holds, "no member leads the cluster")
	}
	if d.Paused {
		holds = append(holds, "Patroni is in maintenance mode (pause)")
	}
	if d.Pending != "" {
		holds = append(holds, d.Pending+" has been requested")
	}
	return holds
}
