// Package drain drains one Kubernetes node, pod by pod, in order. It is the domain: it imports the standard library only, and knows
// nothing of API servers, AWS or poolers.
//
// A drain is a loop. Each turn of it, run.reconcile, looks at the node's pods and gives each one a verdict (evict, wait, hold,
// skip). Make plans from what is seen, and next decides for each pod what to request now; both are pure. A change wakes the loop, not
// a timer. Between two turns the drain remembers only clocks and what it requested. So a crash, a duplicate or a later invocation
// needs no memory but what escorts recorded in the Lease (Records): the next drain sees the same node and makes the same plan.
//
// Pods are evicted in phases. The first phase that still has pods on the node is open. A phase that outlasts its timeout no longer
// holds back the next.
//
// A pod that came after the cordon has come back. One such pod per controller is asked to leave; the others are told to stop once, when
// the node is terminated. So the requests for a controller are bounded. A node that someone uncordons is cordoned
// again, and pods that came meanwhile are ordinary. The drain does not wait for pods that cannot be stopped.
//
// The owner of a pod that is held, or that a PDB or a webhook keeps on the node for long, is told once (Owners).
//
// When time runs out, nothing holds a pod back any more. A pod that is not terminating by then is deleted, whatever its
// PodDisruptionBudgets (PDBs) say. That happens at the last moment that leaves the pod its grace period, one pod at a time per PDB while
// time allows, never in the first half of the drain's time, and never before an eviction was tried. Asking takes time too: how much is
// measured, and pods that share a moment start earlier (Ask). Each request carries at most the grace for which there is time. See Limits.
package drain
