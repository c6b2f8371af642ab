package termination

import (
	"context"
	"errors"
	"time"

	"quiesce/internal/drain"
)

// resumeTime bounds a sweep's look for paused poolers. Each pooler that does not answer takes seconds, and heartbeats come first.
const resumeTime = 25 * time.Second

var errShadow = errors.New("in shadow mode nothing is changed: set mode: drain")

var errNoDatabases = errors.New("no phase of the configuration has the escort postgres: add one (internal/postgres/README.md)")

// Primaries moves primaries of databases without a drain.
type Primaries interface {
	// Switchover moves the primary of one cluster. It returns drain.Held if nothing was moved, with the reason.
	Switchover(ctx context.Context, s drain.Switchover) (drain.EscortResult, error)
	// Resume resumes the poolers that an interrupted move left paused, and returns the clusters, as namespace/name. A second call
	// changes nothing. A move that is under way is left alone.
	Resume(ctx context.Context) (clusters []string, err error)
	// Paused returns the clusters whose poolers may be paused, by a move that is under way or was interrupted.
	Paused(ctx context.Context) (clusters []string, err error)
}

// SwitchoverReport is the answer to a switchover that a person asked for.
type SwitchoverReport struct {
	Status     Status             `json:"status"`  // moved, rehearsed, held or failed
	Cluster    string             `json:"cluster"` // namespace/name
	Reason     string             `json:"reason"`  // why nothing was moved
	Escort     drain.EscortResult `json:"escort"`
	StartedAt  time.Time          `json:"startedAt"`
	FinishedAt time.Time          `json:"finishedAt"`
	Version    string             `json:"version"`
	Commit     string             `json:"commit"`
}

// switchover moves a primary for a person. That it is held is an answer, and no error of the function.
func (h *Handler) switchover(ctx context.Context, s drain.Switchover) SwitchoverReport {
	ctx, cancel := boundInvocation(ctx)
	defer cancel()
	report := SwitchoverReport{Status: StatusMoved, Cluster: s.String(), StartedAt: time.Now(), Version: h.Version, Commit: h.Commit}
	if s.Rehearse {
		report.Status = StatusRehearsed
	}
	err := errNoDatabases
	switch {
	case h.Policy.Shadow:
		err = errShadow
	case h.Primaries != nil:
		report.Escort, err = h.Primaries.Switchover(ctx, s)
	}
	held, isHeld := errors.AsType[*drain.Held](err)
	switch {
	case isHeld:
		report.Status, report.Reason = StatusHeld, drain.Short(held.Reason)
	case err != nil:
		report.Status, report.Reason = StatusFailed, drain.Short(err.Error())
	}
	report.FinishedAt = time.Now()
	h.Log.Info("switchover handled", "report", report)
	return report
}

// ResumeReport is the answer to a request to resume poolers.
type ResumeReport struct {
	Status   Status   `json:"status"`   // resumed, held or failed
	Clusters []string `json:"clusters"` // whose poolers were paused, and are not any more
	Held     []string `json:"held"`     // whose poolers may still be paused, because another invocation holds their Lease
	Reason   string   `json:"reason"`   // what failed, or what to do about what is held
}

// resume resumes what interrupted moves left paused. A message about it comes again if that fails.
func (h *Handler) resume(ctx context.Context) (ResumeReport, error) {
	ctx, cancel := boundInvocation(ctx)
	defer cancel()
	report := ResumeReport{Status: StatusResumed, Clusters: []string{}, Held: []string{}}
	if h.Primaries == nil {
		report.Reason = errNoDatabases.Error()
		return report, nil
	}
	clusters, err := h.Primaries.Resume(ctx)
	report.Clusters = append(report.Clusters, clusters...)
	if len(clusters) > 0 {
		h.Log.Warn("paused poolers resumed", "clusters", clusters)
	}
	if err != nil {
		report.Status, report.Reason = StatusFailed, drain.Short(err.Error())
		return report, &Failed{err}
	}
	return report, nil
}

// resumeByHand is resume for a person, who wants to know whether clients still wait. A switchover that is under way holds its Lease, and so does one
// whose invocation has died a moment ago.
func (h *Handler) resumeByHand(ctx context.Context) (ResumeReport, error) {
	if h.Primaries == nil {
		return ResumeReport{Status: StatusFailed, Clusters: []string{}, Held: []string{}, Reason: errNoDatabases.Error()}, nil
	}
	report, err := h.resume(ctx)
	if err != nil {
		return report, err
	}
	paused, err := h.Primaries.Paused(ctx)
	if err != nil {
		report.Status, report.Reason = StatusFailed, drain.Short(err.Error())
		return report, &Failed{err}
	}
	if len(paused) > 0 {
		report.Status, report.Held, report.Reason = StatusHeld, paused, heldReason
	}
	return report, nil
}

const heldReason = "a switchover may be under way; if its invocation has died, its Lease expires after 30 seconds: ask again then"

// resumeForMessage handles the message that is sent before each pause.
func (h *Handler) resumeForMessage(ctx context.Context) (Report, error) {
	resumed, err := h.resume(ctx)
	return Report{Status: resumed.Status, Reason: resumed.Reason, silent: len(resumed.Clusters) == 0}, err
}

// resumePaused resumes what interrupted moves left paused. It does so in shadow mode too: it only undoes what the function did before.
func (s *sweep) resumePaused(ctx context.Context) {
	if s.Primaries == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, resumeTime)
	defer cancel()
	clusters, err := s.Primaries.Resume(ctx)
	if len(clusters) > 0 {
		s.Log.Warn("paused poolers resumed", "clusters", clusters)
	}
	s.report.Resumed = clusters
	s.addError(err)
}
