package drain

import (
	"slices"
	"time"
)

// Report is the result of a drain, pod by pod: what was done, when, and why.
type Report struct {
	Phases []PhaseReport `json:"phases"`
	Pods   []PodReport   `json:"pods"`
	// FinishedPods is how many finished pods were on the node. Pods names a few of them.
	FinishedPods int `json:"finishedPods,omitempty"`
	// OmittedPods is how many more pods came and went than Pods can name.
	OmittedPods int `json:"omittedPods,omitempty"`
	Recordons   int `json:"recordons,omitempty"` // how often the node was cordoned again, because someone opened it
}

// PhaseReport is one phase that had pods: when it started, and when the last of them was gone.
type PhaseReport struct {
	Name       string    `json:"name"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
}

// PodReport is the result for one pod.
type PodReport struct {
	Namespace string        `json:"namespace"`
	Name      string        `json:"name"`
	Node      string        `json:"node,omitempty"` // on which it ran, if that is not the report's: the instance has several nodes
	UID       string        `json:"uid"`
	Phase     string        `json:"phase"`
	Verdict   Verdict       `json:"verdict"`
	Outcome   Outcome       `json:"outcome,omitempty"`
	Reason    string        `json:"reason,omitempty"`
	BlockedBy []string      `json:"blockedBy,omitempty"` // every PDB that ever refused it, as namespace/name
	Escort    *EscortResult `json:"escort,omitempty"`
	OnlyCopy  bool          `json:"onlyCopy,omitempty"` // its data exist on this node only, so that its escort holds it to the hook's limit
	Warnings  []string      `json:"warnings,omitempty"` // of a plan: what would make its eviction worse than need be
	BlockedAt time.Time     `json:"blockedAt,omitzero"` // when a PDB first refused it
	EvictedAt time.Time     `json:"evictedAt,omitzero"` // when the API server accepted the eviction
	ForcedAt  time.Time     `json:"forcedAt,omitzero"`  // when the API server accepted the deletion
	GoneAt    time.Time     `json:"goneAt,omitzero"`
}

// Outcome is the result of a drain for one pod.
type Outcome string

// The outcomes.
const (
	Evicted      Outcome = "evicted"  // it was told to stop, and is gone
	Forced       Outcome = "forced"   // it was deleted to meet the deadline
	Skipped      Outcome = "skipped"  // by its verdict
	Remained     Outcome = "remained" // it should have gone and did not, or was not stopped
	Waiting      Outcome = "waiting"  // it was still there when the report was made
	StillBlocked Outcome = "blocked"  // the same, because of a PDB
	StillRefused Outcome = "refused"  // the same, because of an admission webhook or policy
	StillHeld    Outcome = "held"     // the same, because its escort held it
)

// Remaining returns the pods that the drain still has to get off the node.
func (r Report) Remaining() []PodReport {
	return slices.DeleteFunc(slices.Clone(r.Pods), func(p PodReport) bool { return !p.remains() })
}

func (p PodReport) remains() bool {
	return p.Outcome == Waiting || p.Outcome == StillBlocked || p.Outcome == StillRefused || p.Outcome == StillHeld
}

// OnlyCopies returns the pods that remain and whose data exist on their node only.
func (r Report) OnlyCopies() []PodReport {
	return slices.DeleteFunc(r.Remaining(), func(p PodReport) bool { return !p.OnlyCopy })
}

// AddBlockers notes on a plan's pods the PDBs that would refuse their eviction now.
func (r *Report) AddBlockers(pdbs []PDB) {
	for i := range r.Pods {
		p := &r.Pods[i]
		for _, pdb := range pdbs {
			if pdb.DisruptionsAllowed <= 0 && slices.Contains(pdb.Pods, p.Namespace+"/"+p.Name) {
				p.BlockedBy = append(p.BlockedBy, pdb.Name)
			}
		}
	}
}

// amend changes the pod's line, if there is one.
func (r *Report) amend(pod Ref, change func(*PodReport)) {
	for i := range r.Pods {
		if p := &r.Pods[i]; p.Ref() == pod {
			change(p)
		}
	}
}

// Ref returns which pod it is about.
func (p PodReport) Ref() Ref { return Ref{p.Namespace, p.Name, p.UID} }

// CloseRemaining gives up on the pods that remain, for this reason: they stay until the node goes. The state is that of the same drain.
func (r *Report) CloseRemaining(s State, reason string) {
	for i := range r.Pods {
		p := &r.Pods[i]
		if !p.remains() {
			continue
		}
		p.Outcome = Remained
		known := s.pods[p.Ref()]
		if !p.ForcedAt.IsZero() && !(known != nil && known.cameBack) {
			p.Outcome = Forced
		}
		why := reason
		if known != nil && known.isStopping() {
			why += " while still stopping"
		}
		p.Reason = Sentence(Cut(p.Reason, MaxText-len(why)-len("; ")), why)
	}
}
