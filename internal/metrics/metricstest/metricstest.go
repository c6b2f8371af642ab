// Package metricstest reads lines of the embedded metric format as CloudWatch does, but reports as an error what CloudWatch
// drops silently
// (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html).
package metricstest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// CloudWatch's limits.
const (
	mostMetrics    = 100
	mostDimensions = 30
	longestName    = 1024
	oldest         = 14 * 24 * time.Hour // most age of a timestamp
	newest         = 2 * time.Hour       // most time from now to a timestamp in the future
)

// units are the CloudWatch units that the function uses.
var units = []string{"Count", "Seconds"}

// Value is one value of one metric.
type Value struct {
	Namespace, Name, Unit string
	Dimensions            map[string]string
	Value                 float64
}

type metadata struct {
	Timestamp         *json.Number
	CloudWatchMetrics []struct {
		Namespace  string
		Dimensions [][]string
		Metrics    []struct {
			Name, Unit        string
			StorageResolution int
		}
	}
}

// Of returns all values that CloudWatch extracts from a log.
func Of(log string) (all []Value, err error) {
	for line := range strings.Lines(log) {
		values, err := Read(line)
		if err != nil {
			return nil, err
		}
		all = append(all, values...)
	}
	return all, nil
}

// Read returns the values of one line of a log. A line of another format has none.
func Read(line string) ([]Value, error) {
	root := map[string]json.RawMessage{}
	if json.Unmarshal([]byte(line), &root) != nil || root["_aws"] == nil {
		return nil, nil
	}
	values, err := read(root)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, line)
	}
	return values, nil
}

func read(root map[string]json.RawMessage) (all []Value, err error) {
	var meta metadata
	decoder := json.NewDecoder(strings.NewReader(string(root["_aws"])))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&meta); err != nil {
		return nil, fmt.Errorf("decode _aws: %w", err)
	}
	if err := meta.isTimely(); err != nil {
		return nil, err
	}
	for _, directive := range meta.CloudWatchMetrics {
		if n := len(directive.Metrics); n == 0 || n > mostMetrics {
			return nil, fmt.Errorf("%d metrics in one directive", n)
		}
		for _, set := range directive.Dimensions {
			dimensions, err := dimensionsOf(root, set)
			if err != nil {
				return nil, err
			}
			for _, metric := range directive.Metrics {
				value := Value{Namespace: directive.Namespace, Name: metric.Name, Unit: metric.Unit, Dimensions: dimensions}
				if err := value.set(root[metric.Name]); err != nil {
					return nil, err
				}
				all = append(all, value)
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no metric")
	}
	return all, nil
}

func (m metadata) isTimely() error {
	if m.Timestamp == nil {
		return fmt.Errorf("no Timestamp")
	}
	milliseconds, err := m.Timestamp.Int64()
	if err != nil {
		return fmt.Errorf("a Timestamp that is not in whole milliseconds: %w", err)
	}
	if age := time.Since(time.UnixMilli(milliseconds)); age > oldest || age < -newest {
		return fmt.Errorf("a Timestamp that is %s old", age)
	}
	return nil
}

func dimensionsOf(root map[string]json.RawMessage, set []string) (map[string]string, error) {
	if len(set) > mostDimensions {
		return nil, fmt.Errorf("%d dimensions", len(set))
	}
	dimensions := map[string]string{}
	for _, name := range set {
		var value string
		if err := json.Unmarshal(root[name], &value); err != nil || value == "" || len(value) > longestName || len(name) > 250 {
			return nil, fmt.Errorf("dimension %q is %s", name, root[name])
		}
		dimensions[name] = value
	}
	return dimensions, nil
}

func (v *Value) set(raw json.RawMessage) error {
	switch {
	case v.Namespace == "" || v.Name == "" || len(v.Name) > longestName:
		return fmt.Errorf("a metric called %q in %q", v.Name, v.Namespace)
	case !slices.Contains(units, v.Unit):
		return fmt.Errorf("%s in %q", v.Name, v.Unit)
	}
	if err := json.Unmarshal(raw, &v.Value); err != nil {
		return fmt.Errorf("%s is %s: %w", v.Name, raw, err)
	}
	return nil
}
