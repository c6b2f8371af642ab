package config

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Error is one error in the configuration.
type Error struct {
	Line   int    `json:"line,omitempty"` // in the file; zero: the error is in the environment
	Key    string `json:"key,omitempty"`  // dotted path, or an environment variable; empty: the file as a whole
	Reason string `json:"reason"`
}

// String returns the error in the form of a compiler message.
func (e Error) String() string { return e.in(FileName) }

func (e Error) in(file string) string {
	var parts []string
	if e.Line > 0 {
		parts = append(parts, fmt.Sprintf("%s:%d", file, e.Line))
	}
	if e.Key != "" {
		parts = append(parts, e.Key)
	}
	return strings.Join(append(parts, e.Reason), ": ")
}

// Errors is every error in the configuration, in the order of the file.
type Errors []Error

// Error returns the errors, one per line.
func (e Errors) Error() string { return e.In(FileName) }

// In returns the errors, one per line, with the path of the file that has them.
func (e Errors) In(file string) string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.in(file)
	}
	return strings.Join(lines, "\n")
}

// MarshalJSON returns a JSON list. Without it, a JSON logger writes the text of an error.
func (e Errors) MarshalJSON() ([]byte, error) { return json.Marshal([]Error(e)) }
