package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// adviceTimeout bounds the look at one member for a plan, for which a person waits.
const adviceTimeout = 20 * time.Second

// maxNamed bounds the members and poolers that one sentence names.
const maxNamed = 5

// Advise implements drain.Escort: what is known of the pod's cluster, and whether its primary could move now. It changes nothing.
func (e *Escort) Advise(ctx context.Context, p drain.Pod) []string {
	ctx, cancel := context.WithTimeout(ctx, adviceTimeout)
	defer cancel()
	identity, is := e.Recognize(p)
	if !is {
		return nil
	}
	cluster, err := e.Connect(ctx)
	if err != nil {
		return printable("Failed to look at database " + identity.String() + ": " + err.Error())
	}
	f, err := Observe(ctx, e.Clusters(cluster), identity)
	if err != nil {
		return printable(lookFailed(identity, err)...)
	}
	if f.Leader != p.Name {
		f.addDisk(ctx, e.Clusters(cluster), p.Name)
	}
	if leader := f.LeaderMember(); leader == nil || leader.Name != p.Name {
		return printable(f.advise(e.Settings, p.Name, time.Now())...)
	}
	paths, err := e.findPaths(ctx, cluster, &f, false)
	if err != nil {
		lines := f.advise(e.Settings, p.Name, time.Now())
		return printable(append(lines, "Failed to find its poolers: "+err.Error())...)
	}
	defer paths.close()
	e.addWork(ctx, paths.fronts, &f)
	return printable(append(f.advise(e.Settings, p.Name, time.Now()), paths.advise(&f)...)...)
}

// printable returns the texts as sentences for a report.
func printable(lines ...string) []string {
	for i, line := range lines {
		lines[i] = escort.Printable(line) + "."
	}
	return lines
}

// lookFailed says why the cluster is not known. A missing permission is named, with the manifest that has it.
func lookFailed(i Identity, err error) []string {
	lines := []string{"The primary is held, because database " + i.String() + " cannot be looked at: " + err.Error()}
	if errors.Is(err, escort.ErrForbidden) {
		lines = append(lines, i.manifestHint())
	}
	return lines
}

// manifestHint names the manifest with the permissions.
func (i Identity) manifestHint() string {
	manifest := "infra/rbac-postgres-cnpg.yaml"
	if i.Operator.UsesPatroni() {
		manifest = "infra/rbac-postgres-patroni.yaml with scope " + i.Scope
	}
	return fmt.Sprintf("Apply a copy of %s in namespace %s", manifest, i.Namespace)
}

// advise returns what is known, what would happen, and why.
func (f *Facts) advise(s Settings, name string, now time.Time) []string {
	if name != f.Leader {
		return f.adviseReplica(name, now)
	}
	lines := []string{f.describeLeader(now)}
	for i, m := range f.Members {
		if m.Name != f.Leader && i <= maxNamed {
			lines = append(lines, f.describeReplica(m))
		}
	}
	a := Assess(*f, s, now)
	switch {
	case a.Plain != "":
		lines = append(lines, "It is evicted like any other pod: "+a.Plain)
	case a.Candidate != nil:
		lines = append(lines, "The primary could move now: "+a.Candidate.Name+" would become primary")
	}
	for _, hold := range a.Holds {
		lines = append(lines, "The "+f.leaderWord()+" would be held: "+hold)
	}
	if f.lacksLive() {
		lines = append(lines, f.manifestHint())
	}
	for _, warning := range a.Warnings {
		lines = append(lines, capital(warning))
	}
	return lines
}

// lacksLive reports whether a permission to ask members is missing.
func (f *Facts) lacksLive() bool {
	for _, m := range f.Members {
		if strings.Contains(m.Failure, escort.ErrForbidden.Error()) {
			return true
		}
	}
	return false
}

func (f *Facts) adviseReplica(name string, now time.Time) []string {
	lines := []string{fmt.Sprintf("A replica of database %s, whose %s is %s", f, f.leaderWord(), cmp.Or(f.Leader, "unknown"))}
	if m := f.Member(name); m != nil {
		lines[0] += ": " + f.position(*m)
	}
	for _, hold := range AssessReplica(*f, name, now) {
		lines = append(lines, "The replica would be held: "+hold)
	}
	return lines
}

// leaderWord returns what the leader is called. That of a cluster that follows another one takes no writes
// (https://patroni.readthedocs.io/en/latest/standby_cluster.html, https://cloudnative-pg.io/documentation/current/replica_cluster/).
func (f *Facts) leaderWord() string {
	leader := f.LeaderMember()
	switch {
	case leader != nil && leader.Role == StandbyLeader:
		return "standby leader"
	case !f.Standby || leader != nil && leader.Role == Primary:
		return "primary"
	case f.Operator.UsesPatroni():
		return "standby leader"
	default:
		return "designated primary"
	}
}

// describeLeader says who leads, and how.
func (f *Facts) describeLeader(now time.Time) string {
	program := "CloudNativePG"
	if f.Operator.UsesPatroni() {
		program = fmt.Sprintf("Patroni in %s", f.Mode)
	}
	text := fmt.Sprintf("The %s of database %s (%s, %s %s)", f.leaderWord(), f, f.Operator, program, cmp.Or(f.Version, "of unknown version"))
	if !f.LeaderSince.IsZero() {
		text += fmt.Sprintf(", since %s", rounded(now.Sub(f.LeaderSince)))
	}
	if f.LeaderLive {
		text += fmt.Sprintf(", at %s of timeline %d", f.LeaderLSN, f.Timeline)
	}
	return text
}

func (f *Facts) describeReplica(m Member) string {
	text := fmt.Sprintf("Replica %s on node %s: %s", m.Name, cmp.Or(m.Node, "none"), f.position(m))
	if m.Leaving != "" {
		text += "; its node does not stay: " + m.Leaving
	}
	return text
}

// position says how far a replica is behind.
func (f *Facts) position(m Member) string {
	switch {
	case !m.Live:
		return "it does not say its position in the log" + because(m.Failure)
	case !f.LeaderLive:
		return "at " + m.LSN.String()
	default:
		return fmt.Sprintf("%s behind, %s", m.LSN.Behind(f.LeaderLSN).Size(), cmp.Or(m.State, "in an unknown state"))
	}
}

// advise says which poolers a move could pause.
func (s *paths) advise(f *Facts) []string {
	var held, others []string
	for _, p := range s.fronts {
		if p.unheld == "" {
			held = append(held, p.pod.Name)
		} else {
			others = append(others, p.pod.Name+" ("+p.unheld+")")
		}
	}
	others = append(others, s.unknown()...)
	lines := []string{"No pooler is found in front of it: clients would see the switchover"}
	if len(held) > 0 {
		lines[0] = fmt.Sprintf("%d poolers in front of it can hold clients: %s", len(held), few(held))
	}
	if len(others) > 0 {
		lines = append(lines, fmt.Sprintf("%d poolers cannot hold clients: %s", len(others), few(others)))
	}
	for _, p := range s.fronts {
		if text := p.whatIsNotPaused(); text != "" {
			lines = append(lines, "Pooler "+p.pod.Name+": "+text)
		}
	}
	if leadElsewhere := s.leadElsewhere(f.Identity); leadElsewhere != "" {
		lines = append(lines, capital(leadElsewhere))
	}
	if trap := s.passwordsTrap(f); trap != "" {
		lines = append(lines, capital(trap))
	}
	return lines
}

// few names the first of many.
func few(names []string) string {
	if len(names) > maxNamed {
		return strings.Join(names[:maxNamed], ", ") + " and others"
	}
	return strings.Join(names, ", ")
}

func capital(text string) string { return strings.ToUpper(text[:1]) + text[1:] }
