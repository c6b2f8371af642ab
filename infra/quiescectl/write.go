package main

import (
	"encoding/json"
	"fmt"
	"io"

	"sigs.k8s.io/yaml"
)

// write writes a value in the form that was asked for. The table is for people.
func (o *options) write(out io.Writer, value any, table string) error {
	text := []byte(table)
	var err error
	switch o.output {
	case asJSON:
		text, err = json.MarshalIndent(value, "", "  ")
		text = append(text, '\n')
	case asYAML:
		text, err = yaml.Marshal(value)
	}
	if err == nil {
		_, err = out.Write(text)
	}
	if err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}
