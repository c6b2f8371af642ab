// Package drain empties one Kubernetes node, pod by pod, in order. It is the domain: it imports the standard library
// only, and knows nothing of API servers, AWS or poolers.
//
// A drain is a loop of passes. A pass looks at the node's pods, gives each a verdict (evict, wait for, hold, leave
// alone), plans purely, and starts what the plan says. It is woken by what changes, not by a timer. Nothing is remembered
// from pass to pass but clocks, so that a crash, a duplicate or a later slice needs no memory: the next one sees the same
// node and comes to the same plan.
//
// Pods leave in phases. The lowest phase that still has pods on the node is acted on; a phase that outlasts its timeout
// no longer holds back the next.
//
// When time runs out, nothing holds a pod back any more, and what does not leave is told to stop, whatever its budgets say:
// at the last moment that leaves it its grace, one at a time per budget while time allows, never in the first half of the
// drain's time, and never before its eviction was tried. See Limits.
package drain
