package drain

import (
	"strings"
	"time"
)

// Verdict is what a drain does with one pod.
type Verdict string

// The verdicts.
const (
	Evict Verdict = "evict" // ask it to leave
	Wait  Verdict = "wait"  // it is leaving already
	Hold  Verdict = "hold"  // its owner asked that it stays: evicted only when time runs out
	Skip  Verdict = "leave" // it stays until the node goes
)

// Annotations by which a pod's owner speaks to a drain. The second and third are those of the Cluster Autoscaler and of
// Karpenter, so that what was said to them is heard here too:
// https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md and
// https://karpenter.sh/docs/concepts/disruption/#pod-level-controls.
const (
	OptOutAnnotation       = "quiesce/drain"
	safeToEvictAnnotation  = "cluster-autoscaler.kubernetes.io/safe-to-evict"
	doNotDisruptAnnotation = "karpenter.sh/do-not-disrupt"
)

// Decision is a verdict with its reason, in words for a report.
type Decision struct {
	Verdict Verdict
	Reason  string
}

// rules judge a pod on a node. The first that applies wins, so that their order is part of what
// they say: what must stay comes before what is leaving already.
var rules = []struct {
	applies func(Pod, Node) bool
	then    Decision
}{
	{isMirror, Decision{Skip, "static pod: its kubelet owns it"}},
	{isFinished, Decision{Skip, "finished: nothing runs in it"}},
	{isDaemon, Decision{Skip, "DaemonSet: would return to this node at once"}},
	{optedOut, Decision{Skip, "annotated " + OptOutAnnotation + "=false"}},
	{isOrphaned, Decision{Skip, "terminating, but its instance is gone: nobody there stops it"}},
	{isStranded, Decision{Skip, "terminating, but its kubelet is unreachable: nobody there stops it"}},
	{isLeaving, Decision{Wait, "terminating already"}},
	{cameBack, Decision{Skip, "tolerates the cordon and came back after it: eviction would not end"}},
	{unsafeToEvict, Decision{Hold, "annotated " + safeToEvictAnnotation + "=false"}},
	{mustNotBeDisrupted, Decision{Hold, "annotated " + doNotDisruptAnnotation}},
}

// Decide gives the pod's verdict.
func Decide(p Pod, n Node) Decision {
	for _, rule := range rules {
		if rule.applies(p, n) {
			return rule.then
		}
	}
	return Decision{Evict, ""}
}

func isMirror(p Pod, _ Node) bool      { return p.Mirror }
func isFinished(p Pod, _ Node) bool    { return p.Finished }
func isDaemon(p Pod, _ Node) bool      { return p.Controller == "DaemonSet" }
func optedOut(p Pod, _ Node) bool      { return p.Annotations[OptOutAnnotation] == "false" }
func isLeaving(p Pod, _ Node) bool     { return p.Terminating() }
func unsafeToEvict(p Pod, _ Node) bool { return p.Annotations[safeToEvictAnnotation] == "false" }

func isOrphaned(p Pod, n Node) bool { return n.Gone && p.Terminating() }
func isStranded(p Pod, n Node) bool { return n.Unreachable && p.Terminating() }

// cameBack: the first of such pods is evicted like any other, since its successor may well go elsewhere; one that
// came here after the cordon shows that it does not. Creation times are whole seconds, too coarse for a successor that is
// there at once; but it was seen to come, unless an earlier invocation saw it.
func cameBack(p Pod, n Node) bool {
	return p.ToleratesCordon && !n.Cordoned.IsZero() && (p.CreatedAfterCordon || p.Created.After(n.Cordoned))
}

// mustNotBeDisrupted: the annotation holds "true" or, since Karpenter 1.9, a duration from the pod's creation; both ask for the
// same care.
func mustNotBeDisrupted(p Pod, _ Node) bool {
	value, annotated := p.Annotations[doNotDisruptAnnotation]
	return annotated && value != "false"
}

// keptPatience is for how long a pod whose containers have ended is waited for: controllers take their finalizers off within a
// second or two of that (the Job controller has one on each of its pods). Longer would wait for one that is broken, with nothing
// left to be signalled.
const keptPatience = 10 * time.Second

// judge is the verdict now, which of a pod that only finalizers keep depends on the time.
func (v View) judge(p Pod) Decision {
	judgement := Decide(p, v.Node)
	if judgement.Verdict != Wait || p.ContainersEndedAt.IsZero() {
		return judgement
	}
	judgement.Reason = "its containers have ended; kept by " + strings.Join(p.Finalizers, ", ")
	if !v.Now.Before(p.ContainersEndedAt.Add(keptPatience)) {
		judgement.Verdict = Skip
	}
	return judgement
}

// keptUntil is when the next pod that finalizers keep is waited for no longer.
func (v View) keptUntil() (wake time.Time) {
	for _, p := range v.Pods {
		if !p.ContainersEndedAt.IsZero() {
			_, next := at(p.ContainersEndedAt.Add(keptPatience), v.Now)
			wake = earliest(wake, next)
		}
	}
	return wake
}
