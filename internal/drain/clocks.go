package drain

import (
	"context"
	"encoding/json"
	"fmt"
)

// SaveClocks records the times of the node's phases, for the invocation that continues the drain. Otherwise their timeouts would begin again
// with each invocation, and pods of the last phase could have to wait for the deadline.
func (d Drainer) SaveClocks(ctx context.Context, node Node, s State) error {
	clocks := map[string]Clock{}
	for i, clock := range s.clocks {
		if !clock.Began.IsZero() {
			clocks[d.Phases[i].Name] = clock
		}
	}
	if len(clocks) == 0 || len(d.Phases) == 1 || d.Records == nil {
		return nil
	}
	text, err := json.Marshal(clocks)
	if err == nil {
		err = d.Records.SetRecord(ctx, PhasesRecord+node.UID, string(text))
	}
	if err != nil {
		return fmt.Errorf("record when the phases of node %s began: %w", node.Name, err)
	}
	return nil
}

// recordedClocks returns the recorded times of the node's phases; nil: there are none. Those from before this drain began are of another one.
func (d Drainer) recordedClocks(node Node) []Clock {
	var recorded map[string]Clock
	if d.Records == nil || json.Unmarshal([]byte(d.Records.Record(PhasesRecord+node.UID)), &recorded) != nil {
		return nil
	}
	clocks := make([]Clock, len(d.Phases))
	for i, phase := range d.Phases {
		clocks[i] = recorded[phase.Name]
		if began := clocks[i].Began; !began.IsZero() && began.Before(d.Limits.StartedAt) {
			return nil
		}
	}
	return clocks
}
