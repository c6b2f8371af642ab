package rotate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"quiesce/internal/escort"
)

// Annotation is on the first userlist, and has the Record.
const Annotation = "quiesce/rotation"

const (
	// maxRecord bounds a record, in bytes. One has some 400.
	maxRecord = 1 << 10
	// maxClockSkew is how far a time of a record may lie ahead: another computer may have written it.
	maxClockSkew = time.Minute
)

// Step is what is to be done next.
type Step string

// The steps, in their order.
const (
	Opening Step = "opening" // enable the resting login, everywhere
	Moving  Step = "moving"  // clients move to it
	Quiet   Step = "quiet"   // the other one is unused, for as long as is asked
	Closing Step = "closing" // the other one may not log in, which can still be undone
	Ending  Step = "ending"  // its password is removed
	Closed  Step = "closed"  // nothing is left to do
)

var steps = []Step{Opening, Moving, Quiet, Closing, Ending, Closed}

// Record is what must outlive a run.
type Record struct {
	From string `json:"from"` // the login that is to be closed
	To   string `json:"to"`   // the one that is to be used
	Step Step   `json:"step"`
	Back bool   `json:"back,omitempty"` // the rotation undoes one
	Run  string `json:"run,omitempty"`  // the run that wrote it: two runs never write the same text

	Since  time.Time `json:"since,omitzero"`  // the start of the quiet time
	Looked time.Time `json:"looked,omitzero"` // the last complete look at all poolers and servers

	Replaced bool `json:"replaced,omitempty"` // its line has another password: whoever has read it takes the login no more
}

// ParseRecord reads an annotation. Whoever may write the Secret can write anything there, so what makes no sense is refused. An empty text
// is the zero Record.
func ParseRecord(text string, logins [2]string, now time.Time) (Record, error) {
	var r Record
	if text == "" {
		return r, nil
	}
	if len(text) > maxRecord {
		return Record{}, fmt.Errorf("annotation %s has %d bytes; %d are accepted", Annotation, len(text), maxRecord)
	}
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.DisallowUnknownFields()
	if decoder.Decode(&r) != nil || decoder.More() {
		return Record{}, fmt.Errorf("annotation %s is no record of a rotation: remove it, and name the login to rotate to with --to", Annotation)
	}
	err := r.check(logins, now)
	switch {
	case errors.Is(err, errOthers) && r.Step == Closed:
		return Record{}, nil // one userlist may have several pairs of logins
	case errors.Is(err, errOthers):
		err = fmt.Errorf("%w: end it with --logins %s,%s and without --to, or undo it with --back", err, escort.Printable(r.From), escort.Printable(r.To))
	}
	if err != nil {
		return Record{}, fmt.Errorf("annotation %s: %w", Annotation, err)
	}
	return r, nil
}

// errAnotherRun is the error for a record that changed while it was worked on.
var errAnotherRun = errors.New("another run of rotate has changed the record: let that run end, and run the same command again")

// errOthers is the error for a record of other logins.
var errOthers = errors.New("a rotation of other logins is under way")

func (r Record) check(logins [2]string, now time.Time) error {
	latest := now.Add(maxClockSkew)
	switch {
	case r.From == r.To || !slices.Contains(logins[:], r.From) || !slices.Contains(logins[:], r.To):
		return errOthers
	case !slices.Contains(steps, r.Step):
		return errors.New("the step is unknown")
	case r.Since.After(latest) || r.Looked.After(latest) || r.Since.After(r.Looked):
		return errors.New("its times cannot be: they are later than now, or the quiet time begins after the last look")
	case r.Step == Quiet && r.Since.IsZero():
		return errors.New("the quiet time has no start")
	}
	return nil
}

// Text returns the record as ParseRecord reads it.
func (r Record) Text() string {
	text, _ := json.Marshal(r) // strings and times can always be marshaled
	return string(text)
}
