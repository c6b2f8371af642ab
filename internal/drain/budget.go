package drain

// Budget is a disruption budget as a plan shows it.
type Budget struct {
	Name     string   `json:"name"`            // namespace/name
	Allowed  int      `json:"allowed"`         // disruptions that it allows now
	Healthy  int      `json:"healthy"`         // pods that are healthy now
	Desired  int      `json:"desired"`         // pods that must stay healthy
	Expected int      `json:"expected"`        // pods that there are to be
	Never    string   `json:"never,omitempty"` // why no change of pods makes room; empty: one can
	Pods     []string `json:"pods"`            // of this node, namespace/name
}
