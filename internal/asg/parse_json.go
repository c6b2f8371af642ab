package asg

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
)

// object is a JSON object whose values are not decoded yet. Its keys show what it is.
type object map[string]json.RawMessage

func objectOf(data []byte) (object, error) {
	var o object
	if err := decode(data, &o); err != nil {
		return nil, err
	}
	return o, nil
}

func (o object) has(key string) bool {
	_, ok := o[key]
	return ok
}

// decode is json.Unmarshal with errors about the JSON instead of the Go types.
func decode(data []byte, into any) error {
	err := json.Unmarshal(data, into)
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &wrong):
		return fmt.Errorf("not JSON: %w", err)
	case wrong.Field == "":
		return fmt.Errorf("must be %s, not %s", kind(wrong.Type), wrong.Value)
	}
	return fmt.Errorf("%s: must be %s, not %s", wrong.Field, kind(wrong.Type), wrong.Value)
}

func kind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice:
		return "an array"
	}
	return "a string"
}

// quoteMax limits how much of a hostile value gets into a log line, in bytes.
const quoteMax = 100

// quoted makes a value from outside safe for a log line.
func quoted(value string) string {
	return strconv.Quote(value[:min(quoteMax, len(value))])
}
