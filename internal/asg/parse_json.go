package asg

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
)

// object is a JSON object whose values are not looked at yet; its keys tell what it is.
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

// decode is json.Unmarshal with errors for people who see the JSON and not the Go types.
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

// longestQuote bounds what a hostile value can put into a log line, in bytes.
const longestQuote = 100

// quoted makes a value that somebody else wrote fit for a log line.
func quoted(value string) string {
	return strconv.Quote(value[:min(longestQuote, len(value))])
}
