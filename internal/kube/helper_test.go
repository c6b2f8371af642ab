package kube

import (
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"quiesce/internal/drain"
)

// newWatchedNode returns a node that shows these pods, as a watch would have seen them.
func newWatchedNode(pods ...*corev1.Pod) *watchedNode {
	w := &watchedNode{changed: make(chan struct{}, 1), pdbs: pdbsWith()}
	w.replace(pods...)
	return w
}

func (w *watchedNode) replace(pods ...*corev1.Pod) {
	podSink{w}.begin()
	for _, p := range pods {
		w.put(p)
	}
	podSink{w}.end()
}

func (w *watchedNode) put(p *corev1.Pod)  { podSink{w}.put(toSeenPod(p)) }
func (w *watchedNode) drop(p *corev1.Pod) { podSink{w}.drop(toSeenPod(p)) }

func (d *pdbs) put(p *policyv1.PodDisruptionBudget) {
	namespaceSink{d, d.namespaces[p.Namespace]}.put(toPDB(p))
}

func (d *pdbs) drop(p *policyv1.PodDisruptionBudget) {
	namespaceSink{d, d.namespaces[p.Namespace]}.drop(toPDB(p))
}

func refNamed(namespace, name, uid string) drain.Ref {
	return drain.Ref{Namespace: namespace, Name: name, UID: uid}
}
