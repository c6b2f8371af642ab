package drain

import (
	"strings"
	"time"
)

// Verdict is what a drain does with one pod.
type Verdict string

// The verdicts.
const (
	Evict Verdict = "evict"
	Wait  Verdict = "wait" // it is already terminating
	Hold  Verdict = "hold" // its owner asked to keep it: it is evicted only when time runs out
	Skip  Verdict = "skip" // it stays until the node goes
)

// Annotations by which a pod's owner controls its drain. The second and third are those of the Cluster Autoscaler and of Karpenter, and
// mean the same here:
// https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md and
// https://karpenter.sh/docs/concepts/disruption/#pod-level-controls.
const (
	OptOutAnnotation       = "quiesce/drain"
	safeToEvictAnnotation  = "cluster-autoscaler.kubernetes.io/safe-to-evict"
	doNotDisruptAnnotation = "karpenter.sh/do-not-disrupt"
)

// Why a pod cannot be stopped.
const (
	instanceGone       = "instance gone, cannot stop"
	kubeletUnreachable = "kubelet unreachable, cannot stop"
)

// Decision is a verdict with its reason, in words for a report.
type Decision struct {
	Verdict Verdict
	Reason  string
}

// rules decide about a pod on a node. The first that applies wins. So their order matters: pods that stay come before pods that are
// already terminating.
var rules = []struct {
	applies func(Pod, Node) bool
	then    Decision
}{
	{isMirror, Decision{Skip, "static pod: managed by its kubelet"}},
	{isFinished, Decision{Skip, "finished: nothing runs in it"}},
	{isDaemon, Decision{Skip, "DaemonSet: would return to this node at once"}},
	{optedOut, Decision{Skip, "annotated " + OptOutAnnotation + "=false"}},
	{isOrphaned, Decision{Skip, instanceGone}},
	{isUnstoppable, Decision{Skip, kubeletUnreachable}},
	{isTerminating, Decision{Wait, "already terminating"}},
	{unsafeToEvict, Decision{Hold, "annotated " + safeToEvictAnnotation + "=false"}},
	{mustNotBeDisrupted, Decision{Hold, "annotated " + doNotDisruptAnnotation}},
}

// Decide returns the pod's verdict.
func Decide(p Pod, n Node) Decision {
	for _, rule := range rules {
		if rule.applies(p, n) {
			return rule.then
		}
	}
	return Decision{Evict, ""}
}

// heldBy returns all annotations that hold the pod, in words.
func heldBy(p Pod, n Node) (reasons []string) {
	for _, rule := range rules {
		if rule.then.Verdict == Hold && rule.applies(p, n) {
			reasons = append(reasons, rule.then.Reason)
		}
	}
	return reasons
}

func isMirror(p Pod, _ Node) bool      { return p.Mirror }
func isFinished(p Pod, _ Node) bool    { return p.Finished }
func isDaemon(p Pod, _ Node) bool      { return p.Controller == "DaemonSet" }
func optedOut(p Pod, _ Node) bool      { return p.Annotations[OptOutAnnotation] == "false" }
func isTerminating(p Pod, _ Node) bool { return p.Terminating() }
func unsafeToEvict(p Pod, _ Node) bool { return p.Annotations[safeToEvictAnnotation] == "false" }

func isOrphaned(p Pod, n Node) bool    { return n.Gone && p.Terminating() }
func isUnstoppable(p Pod, n Node) bool { return n.Unreachable && p.Terminating() }

// mustNotBeDisrupted reports whether Karpenter's annotation holds the pod. Its value is "true" or, since Karpenter 1.9, a duration from
// the pod's creation. Both are respected alike.
func mustNotBeDisrupted(p Pod, _ Node) bool {
	value, annotated := p.Annotations[doNotDisruptAnnotation]
	return annotated && value != "false"
}

// finalizerGrace is how long a pod whose containers have ended is waited for. Controllers remove their finalizers within a second or
// two (the Job controller has one on each of its pods). A longer wait would be for a broken controller, with no container left to
// signal.
const finalizerGrace = 10 * time.Second

// decide returns the verdict now. Of a pod that only finalizers keep, it depends on the time. To hold a pod that cannot be stopped
// would keep its instance for nothing.
func (v View) decide(p Pod) Decision {
	decision := Decide(p, v.Node)
	exception, excepted := v.exceptions[p.UID]
	switch {
	case excepted && (decision.Verdict == Evict || decision.Verdict == Hold):
		return Decision{Skip, exception.reason}
	case decision.Verdict == Hold && (v.Node.Unreachable || v.Node.Gone):
		decision.Verdict = Evict
	case decision.Verdict == Wait && !p.ContainersEndedAt.IsZero():
		decision.Reason = "its containers have ended; kept by " + strings.Join(p.Finalizers, ", ")
		if !v.Now.Before(p.ContainersEndedAt.Add(finalizerGrace)) {
			decision.Verdict = Skip
		}
	}
	return decision
}

// keptUntil returns when the next pod that only finalizers keep is not waited for any more.
func (v View) keptUntil() (wake time.Time) {
	for _, p := range v.Pods {
		if !p.ContainersEndedAt.IsZero() {
			_, next := reached(p.ContainersEndedAt.Add(finalizerGrace), v.Now)
			wake = Earliest(wake, next)
		}
	}
	return wake
}
