package drain

// PDB is a disruption budget as a plan shows it.
type PDB struct {
	Name               string   `json:"name"`            // namespace/name
	DisruptionsAllowed int      `json:"allowed"`         // disruptions that it allows now
	CurrentHealthy     int      `json:"healthy"`         // pods that are healthy now
	DesiredHealthy     int      `json:"desired"`         // pods that must stay healthy
	ExpectedPods       int      `json:"expected"`        // pods that there are to be
	NeverReason        string   `json:"never,omitempty"` // why no change of pods makes room; empty: one can
	Pods               []string `json:"pods"`            // of this node, namespace/name
}
