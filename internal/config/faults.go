package config

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Error is one thing that is wrong with the configuration.
type Error struct {
	Line   int    `json:"line,omitempty"` // of the file; zero: the fault is in the environment
	Key    string `json:"key,omitempty"`  // its path, or an environment variable; empty: the file as a whole
	Reason string `json:"reason"`
}

// String is the fault as a compiler would report it.
func (f Error) String() string {
	var parts []string
	if f.Line > 0 {
		parts = append(parts, fmt.Sprintf("%s:%d", FileName, f.Line))
	}
	if f.Key != "" {
		parts = append(parts, f.Key)
	}
	return strings.Join(append(parts, f.Reason), ": ")
}

// Errors are all that is wrong with the configuration, in the order of the file.
type Errors []Error

// Error lists the faults, one a line.
func (f Errors) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.String()
	}
	return strings.Join(lines, "\n")
}

// MarshalJSON makes a JSON logger write a list of faults: of an error without it, the logger would write the text.
func (f Errors) MarshalJSON() ([]byte, error) { return json.Marshal([]Error(f)) }
