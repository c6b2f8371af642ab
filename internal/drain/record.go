package drain

import (
	"context"
	"encoding/json"
	"fmt"
)

// Records keeps what must outlive an invocation: texts by key. It is the instance's Lease, where the owners of pods cannot write.
type Records interface {
	// Record returns the text under the key; empty: none.
	Record(key string) string
	// SetRecord replaces the text under the key; an empty text removes it. What a record describes is done after SetRecord
	// returned nil.
	SetRecord(ctx context.Context, key, text string) error
}

// The kinds of records. A key is a kind and a UID.
const (
	EscortRecord    = "escort."    // of a pod: what its escort changed
	SuccessorRecord = "successor." // of a controller in its namespace: its pod that came back and was asked to leave
	PhasesRecord    = "phases."    // of a node: when the phases of its drain began
)

// record is what a drain keeps about a pod whose escort changed something that outlives the escort.
type record struct {
	Phase    string          `json:"phase"`              // the pod stays in it, whatever becomes of its labels
	Escort   json.RawMessage `json:"escort,omitempty"`   // what the escort changed, in its own terms
	OnlyCopy bool            `json:"onlyCopy,omitempty"` // the pod's data exist on this node only: it stays, whether or not an escort runs
}

// recordOf returns the pod's record. A record that cannot be read counts as one whose escort knows what can be undone without it.
func (d Drainer) recordOf(p Ref) (r record, recorded bool) {
	if d.Records == nil {
		return record{}, false
	}
	text := d.Records.Record(EscortRecord + p.UID)
	if text == "" {
		return record{}, false
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return record{}, true
	}
	return r, true
}

// SaysOnlyCopy reports whether the text of an EscortRecord says that the pod's data exist on its node and nowhere else.
func SaysOnlyCopy(text string) bool {
	var r record
	return json.Unmarshal([]byte(text), &r) == nil && r.OnlyCopy
}

// isRecorded reports whether the pod has a record.
func (d Drainer) isRecorded(p Ref) bool {
	_, recorded := d.recordOf(p)
	return recorded
}

// recordedPhases returns the phases in which records keep their pods, by UID.
func (d Drainer) recordedPhases(pods []Pod) map[string]string {
	var phases map[string]string
	for _, p := range pods {
		if r, recorded := d.recordOf(p.Ref); recorded && r.Phase != "" {
			if phases == nil {
				phases = map[string]string{}
			}
			phases[p.UID] = r.Phase
		}
	}
	return phases
}

// save returns what an escort of this phase replaces the pod's record with; nil removes it.
func (d Drainer) save(p Ref, phase string) func(context.Context, json.RawMessage, bool) error {
	return func(ctx context.Context, escort json.RawMessage, onlyCopy bool) error {
		if d.Records == nil {
			return fmt.Errorf("record what is changed on pod %s: there is no Lease to record it in", p)
		}
		var text []byte
		if escort != nil {
			var err error
			if text, err = json.Marshal(record{phase, escort, onlyCopy}); err != nil {
				return fmt.Errorf("record what is changed on pod %s: %w", p, err)
			}
		}
		return d.Records.SetRecord(ctx, EscortRecord+p.UID, string(text))
	}
}
