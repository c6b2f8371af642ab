package timeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"quiesce/internal/termination"
)

// Read reads reports as people have them: objects of the archive, answers of invocations (one report or a list), or lines of the
// function's log, of which those with a report count. Lines that a log viewer puts before the JSON are not understood.
func Read(r io.Reader) ([]termination.Report, error) {
	var reports []termination.Report
	for decoder, value := json.NewDecoder(r), 1; ; value++ {
		var raw json.RawMessage
		err := decoder.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return reports, nil
		}
		if err != nil {
			return nil, fmt.Errorf("JSON value %d: %w", value, err)
		}
		found, err := parse(raw)
		if err != nil {
			return nil, fmt.Errorf("JSON value %d is no report: %w", value, err)
		}
		reports = append(reports, found...)
	}
}

// parse returns the reports in one JSON value.
func parse(raw json.RawMessage) ([]termination.Report, error) {
	if len(raw) > 0 && raw[0] == '[' {
		var list []termination.Report
		err := json.Unmarshal(raw, &list)
		return list, err
	}
	var line struct {
		Report  json.RawMessage `json:"report"`
		Message *string         `json:"msg"` // of a line of the log
	}
	if err := json.Unmarshal(raw, &line); err != nil {
		return nil, err
	}
	switch {
	case line.Report != nil:
		raw = line.Report
	case line.Message != nil:
		return nil, nil
	}
	var one termination.Report
	if err := json.Unmarshal(raw, &one); err != nil {
		return nil, err
	}
	return []termination.Report{one}, nil
}
