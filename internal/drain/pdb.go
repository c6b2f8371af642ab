package drain

// PDB is a PodDisruptionBudget as a plan shows it. The names are those of its status
// (https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/pod-disruption-budget-v1/).
type PDB struct {
	Name               string   `json:"name"` // namespace/name
	DisruptionsAllowed int      `json:"disruptionsAllowed"`
	CurrentHealthy     int      `json:"currentHealthy"`
	DesiredHealthy     int      `json:"desiredHealthy"`
	ExpectedPods       int      `json:"expectedPods"`
	NeverReason        string   `json:"neverReason,omitempty"` // why no change of pods makes room; empty: one can
	Pods               []string `json:"pods"`                  // of this node, namespace/name
}
