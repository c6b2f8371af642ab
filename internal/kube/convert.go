package kube

import (
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"quiesce/internal/escort"
)

// ToEscortPod returns the pod as drains and escorts see it, for those who have read it with another client.
func ToEscortPod(p *corev1.Pod) *escort.Pod { return toEscortPod(p) }

// NeverReason returns why the PDB can never allow a disruption; empty: it can.
func NeverReason(p *policyv1.PodDisruptionBudget) string { return neverReason(p) }

// WhyLeaving returns why a node does not stay; empty: it does.
func WhyLeaving(n *corev1.Node) string { return whyLeaving(n) }
