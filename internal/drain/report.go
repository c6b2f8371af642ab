package drain

import (
	"slices"
	"strings"
	"time"
)

// Report is the result of a drain, pod by pod: what was done, when, and why.
type Report struct {
	Phases []PhaseReport `json:"phases"`
	Pods   []PodReport   `json:"pods"`
}

// PhaseReport says when a phase that had pods was acted on, and when the last of them was gone.
type PhaseReport struct {
	Name       string    `json:"name"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
}

// PodReport is one pod's line.
type PodReport struct {
	Namespace string        `json:"namespace"`
	Name      string        `json:"name"`
	UID       string        `json:"uid"`
	Phase     string        `json:"phase"`
	Verdict   Verdict       `json:"verdict"`
	Outcome   Outcome       `json:"outcome,omitempty"`
	Reason    string        `json:"reason,omitempty"`
	BlockedBy []string      `json:"blockedBy,omitempty"` // every budget that ever refused it, as namespace/name
	Escort    *EscortResult `json:"escort,omitempty"`
	Warnings  []string      `json:"warnings,omitempty"` // of a plan: what would make its leaving worse than need be
	BlockedAt time.Time     `json:"blockedAt,omitzero"` // when a budget first refused it
	EvictedAt time.Time     `json:"evictedAt,omitzero"` // when the API server accepted the eviction
	ForcedAt  time.Time     `json:"forcedAt,omitzero"`  // when it accepted the deletion
	GoneAt    time.Time     `json:"goneAt,omitzero"`

	claims []string
	grace  time.Duration // its own

	// Of what the reason is made.
	judged  string // the verdict's
	forced  string // that it was deleted, and with how much grace
	staying string // why nobody waits for it, or not for long, though it is terminating
	trouble string // what came of the latest request
	doubted string // as forced, of a deletion that failed: it may have been heard all the same

	stopping bool // it is terminating, and something may still run in it
	ended    bool // it is terminating, and nothing does
	waived   bool // it is terminating, and nobody waits for it
}

// Outcome is what became of a pod.
type Outcome string

// The outcomes.
const (
	Evicted      Outcome = "evicted" // it left the node after being signalled
	Forced       Outcome = "forced"  // it was deleted because time ran out
	Remained     Outcome = "left"    // it stays until the node goes, or until what keeps it in the API lets go
	Waiting      Outcome = "waiting" // it was still there when the report was made
	StillBlocked Outcome = "blocked" // a budget kept it
)

// clocks are those of the phases when the report was made.
func (r Report) clocks(phases []Phase) []Clock {
	clocks := make([]Clock, len(phases))
	for i, phase := range phases {
		for _, before := range r.Phases {
			if before.Name == phase.Name {
				clocks[i] = Clock{Began: before.StartedAt, Emptied: before.FinishedAt}
			}
		}
	}
	return clocks
}

// Remaining are the pods that the drain still wants to be gone.
func (r Report) Remaining() []PodReport {
	return slices.DeleteFunc(slices.Clone(r.Pods), func(p PodReport) bool {
		return p.Outcome != Waiting && p.Outcome != StillBlocked
	})
}

// Claims are the PersistentVolumeClaims, as namespace/name, of the pods that left.
func (r Report) Claims() []string {
	var claims []string
	for _, p := range r.Pods {
		for _, claim := range p.claims {
			if !p.GoneAt.IsZero() {
				claims = append(claims, p.Namespace+"/"+claim)
			}
		}
	}
	return claims
}

// AddBlockers notes on a plan's pods the budgets that would refuse their eviction now.
func (r *Report) AddBlockers(budgets []PDB) {
	for i := range r.Pods {
		p := &r.Pods[i]
		for _, b := range budgets {
			if b.DisruptionsAllowed <= 0 && slices.Contains(b.Pods, p.Namespace+"/"+p.Name) {
				p.BlockedBy = append(p.BlockedBy, b.Name)
			}
		}
	}
}

// amend changes the pod's line, if there is one.
func (r *Report) amend(pod Ref, change func(*PodReport)) {
	for i := range r.Pods {
		if p := &r.Pods[i]; p.UID == pod.UID && p.Namespace == pod.Namespace && p.Name == pod.Name {
			change(p)
		}
	}
}

// CloseRemaining gives up on the pods that remain: time is up, and they stay until the node goes. Those that were told to stop
// are still at it.
func (r *Report) CloseRemaining(reason string) {
	for i := range r.Pods {
		if p := &r.Pods[i]; p.Outcome == Waiting || p.Outcome == StillBlocked {
			p.Outcome = Remained
			if !p.ForcedAt.IsZero() {
				p.Outcome = Forced
			}
			p.Reason = sentence(p.Reason, p.stillStopping()+reason)
		}
	}
}

func (p PodReport) stillStopping() string {
	if p.ended || (!p.stopping && p.EvictedAt.IsZero() && p.ForcedAt.IsZero()) {
		return ""
	}
	return "still stopping when "
}

// sentence joins what there is to say.
func sentence(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(part string) bool { return part == "" }), "; ")
}
