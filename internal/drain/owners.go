package drain

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

const (
	// blockedTellAfter is how long a pod's eviction must be refused before its owner is told. Most PDBs have room again within a minute,
	// when a replacement is ready. Earlier would bother owners in each rolling drain. Later would leave them less time to act.
	blockedTellAfter = time.Minute
	// blockedTellShare bounds it by this part of the drain's whole time. In the two minutes of a Spot interruption, a minute is too late.
	blockedTellShare = 10
	// maxPodEvents bounds the events about pods of one drain. A node has some hundred pods, and each event is a request. More would let
	// owners who hold thousands of pods load the API server.
	maxPodEvents = 100
	// maxForeignText bounds, within a message, a text that a webhook or a PDB's condition has. Longer would leave no room for what the
	// owner can do. Shorter would cut what they must read.
	maxForeignText = 400
)

// Owners tells the owners of pods why their pods keep the node waiting.
type Owners interface {
	// Tell passes the event on. It never waits for it, and nothing depends on it. An event that was told before, by any invocation,
	// appears once.
	Tell(e PodEvent)
}

// PodEvent is a Kubernetes event about a pod, in its own namespace. Pod, reason and Began identify it: Began is that of a termination, or of
// a pause.
type PodEvent struct {
	Pod     Ref
	Reason  PodEventReason
	Message string // no more than MaxText bytes
	Began   time.Time
}

// PodEventReason is why a pod keeps its node waiting, or what quiesce does with its clients, as `kubectl get events` shows it.
type PodEventReason string

// The reasons of events about pods. An admission policy lists them (infra/rbac.yaml).
const (
	EvictionBlocked PodEventReason = "EvictionBlocked" // by a PDB
	EvictionHeld    PodEventReason = "EvictionHeld"    // by an annotation
	EvictionRefused PodEventReason = "EvictionRefused" // by an admission webhook or policy
	ClientsPaused   PodEventReason = "ClientsPaused"   // by quiesce, while a database's primary moves
	ClientsResumed  PodEventReason = "ClientsResumed"  // by quiesce, after ClientsPaused
)

// tellOwners tells the owners of held pods at once, and the owners of pods whose eviction is refused after a while; each once. It returns
// when the next is to be told.
func (r *run) tellOwners(pods []Planned, now time.Time) (wake time.Time) {
	if r.Owners == nil {
		return time.Time{}
	}
	for _, pod := range pods {
		p := r.state.pods[pod.Ref]
		reason, since := p.hindrance(pod)
		if reason == "" || slices.Contains(p.told, reason) || r.state.told > maxPodEvents {
			continue
		}
		if reason != EvictionHeld {
			tell, next := reached(since.Add(r.Limits.tellAfter()), now)
			if wake = Earliest(wake, next); !tell {
				continue
			}
		}
		if r.state.told++; r.state.told > maxPodEvents {
			r.Log.Warn("too many pods are blocked or held, not all owners are told", "told", maxPodEvents)
			continue
		}
		p.told = append(p.told, reason)
		r.Owners.Tell(PodEvent{Pod: pod.Ref, Reason: reason, Message: r.explain(reason, pod, p), Began: r.Limits.StartedAt})
	}
	return wake
}

func (l Limits) tellAfter() time.Duration {
	if l.Deadline.IsZero() {
		return blockedTellAfter
	}
	return min(blockedTellAfter, l.Deadline.Sub(l.StartedAt)/blockedTellShare)
}

// hindrance returns what keeps the pod from being told to stop, and since when; empty: nothing that its owner can change in time.
func (p *progress) hindrance(pod Planned) (reason PodEventReason, since time.Time) {
	switch {
	case pod.Due || pod.Terminating() || p.isSignaled():
		return "", time.Time{}
	case pod.Verdict == Hold:
		return EvictionHeld, time.Time{}
	case pod.Verdict != Evict:
		return "", time.Time{}
	case p.holdup == StillBlocked:
		return EvictionBlocked, p.line.BlockedAt
	case p.holdup == StillRefused:
		return EvictionRefused, p.refusedAt
	}
	return "", time.Time{}
}

// explain returns the message of an event: why the node waits, what happens at the end, and what the owner can do. What a webhook has
// written comes last.
func (r *run) explain(reason PodEventReason, pod Planned, p *progress) string {
	var why, help, answer string
	switch reason {
	case EvictionHeld:
		why, help = "It is "+strings.Join(heldBy(pod.Pod, r.node), ", "), "remove the annotation"
	case EvictionBlocked:
		why, help = p.block.explain()
	default:
		why, help = "An admission webhook or policy does not allow its eviction", "change the webhook, or what it objects to"
		answer = " The answer: " + Cut(p.refusal, maxForeignText)
	}
	message := fmt.Sprintf("Node %s is being drained and waits for this pod. %s. %s To let it leave earlier, %s.%s",
		r.node.Name, why, r.Limits.explainEnd(pod), help, answer)
	return Cut(printable(message), MaxText)
}

// explain returns which PDB blocks a pod, with its numbers, and what the pod's owner can do.
func (b *Blocked) explain() (why, help string) {
	names := strings.Join(b.PDBs[:min(len(b.PDBs), maxNames)], ", ")
	reason := Cut(b.Reason, maxForeignText)
	switch {
	case b.Never && len(b.PDBs) != 1:
		return Sentence(reason, names), "let only one PodDisruptionBudget select it"
	case b.Never:
		return "PodDisruptionBudget " + names + " blocks its eviction: it " + reason, "raise its replicas, or change the PodDisruptionBudget"
	case b.First != nil:
		names = b.First.Name
		reason = fmt.Sprintf("%d healthy pods are needed, %d of %d are healthy", b.First.DesiredHealthy, b.First.CurrentHealthy, b.First.ExpectedPods)
	}
	return "PodDisruptionBudget " + names + " blocks its eviction: " + reason,
		"raise its replicas, get its other pods ready, or change the PodDisruptionBudget"
}

// explainEnd returns what becomes of a pod if nothing changes.
func (l Limits) explainEnd(pod Planned) string {
	switch {
	case l.Deadline.IsZero():
		return "It is not deleted."
	case pod.ForceAt.IsZero():
		return fmt.Sprintf("If nothing changes, it is not deleted: it is killed with its instance, after %s.", inUTC(l.Deadline))
	}
	return fmt.Sprintf("If nothing changes, it is deleted at %s, with %s to stop.", inUTC(pod.ForceAt), l.Grace(pod.Grace, pod.ForceAt))
}

func inUTC(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// printable replaces what a terminal would not print as it is. What others have written is data.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return ' '
	}, text)
}
