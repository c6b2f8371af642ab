package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// object is an object of JSON.
type object = map[string]any

func ref(name string) object { return object{"Ref": name} }

// number returns a number as JSON writes it.
func number(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

// absent removes a property, or an item of a list.
var absent = ref("AWS::NoValue")

// mergeTemplates returns one template for two: the first is what it gives where the condition on holds, and the second where the
// condition off holds.
func mergeTemplates(on, off string, a, b object) (object, error) {
	merged := object{}
	for _, section := range sortedKeys(a, b) {
		switch section {
		case "Resources", "Outputs":
			items, err := mergeItems(on, off, asObject(a[section]), asObject(b[section]))
			if err != nil {
				return nil, err
			}
			merged[section] = items
		default:
			if !reflect.DeepEqual(a[section], b[section]) {
				return nil, fmt.Errorf("section %s differs", section)
			}
			merged[section] = a[section]
		}
	}
	return merged, nil
}

// mergeItems merges resources or outputs. One that only one template has gets the condition.
func mergeItems(on, off string, a, b object) (object, error) {
	merged := object{}
	for _, id := range sortedKeys(a, b) {
		one, other := asObject(a[id]), asObject(b[id])
		switch {
		case one != nil && other != nil:
			item, err := mergeItem(on, one, other)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", id, err)
			}
			merged[id] = item
		case one != nil:
			merged[id] = withCondition(one, on)
		default:
			merged[id] = withCondition(other, off)
		}
		if merged[id] == nil {
			return nil, fmt.Errorf("%s depends on two switches", id)
		}
	}
	return merged, nil
}

// withCondition returns a resource or an output with a condition, or nil if it has one.
func withCondition(item object, condition string) any {
	if item["Condition"] != nil {
		return nil
	}
	with := maps.Clone(item)
	with["Condition"] = condition
	return with
}

// mergeItem merges a resource or an output that both templates have. Only its properties or its value can differ by an Fn::If. A
// resource may depend on one that a condition leaves out: CloudFormation ignores that.
func mergeItem(on string, a, b object) (object, error) {
	merged := object{}
	for _, key := range sortedKeys(a, b) {
		switch {
		case key == "Properties" || key == "Value":
			merged[key] = mergeValues(on, a[key], b[key])
		case key == "DependsOn":
			merged[key] = union(a[key], b[key])
		case reflect.DeepEqual(a[key], b[key]):
			merged[key] = a[key]
		default:
			return nil, fmt.Errorf("%s differs, and cannot have a condition", key)
		}
	}
	return merged, nil
}

func mergeValues(on string, a, b any) any {
	if reflect.DeepEqual(a, b) {
		return a
	}
	one, other := asObject(a), asObject(b)
	if one == nil || other == nil || isFunction(one) || isFunction(other) {
		return object{"Fn::If": []any{on, orAbsent(a), orAbsent(b)}}
	}
	merged := object{}
	for _, key := range sortedKeys(one, other) {
		merged[key] = mergeValues(on, one[key], other[key])
	}
	return merged
}

func orAbsent(value any) any {
	if value == nil {
		return absent
	}
	return value
}

// isFunction reports whether a value is an intrinsic function.
func isFunction(value object) bool {
	for key := range value {
		return len(value) == 1 && (key == "Ref" || strings.HasPrefix(key, "Fn::"))
	}
	return false
}

func union(a, b any) []any {
	one, _ := a.([]any)
	other, _ := b.([]any)
	var names []string
	for _, name := range slices.Concat(one, other) {
		names = append(names, name.(string))
	}
	slices.Sort(names)
	var all []any
	for _, name := range slices.Compact(names) {
		all = append(all, name)
	}
	return all
}

// substitutions are what replaces texts and numbers of a template: the value of each.
type substitutions map[string]any

// template replaces the placeholders in a template. CloudFormation allows no functions outside of properties and values of
// outputs: a placeholder that remains there is an error.
func (s substitutions) template(t object) (object, error) {
	plain := object{"Resources": object{}, "Outputs": object{}}
	for id, raw := range asObject(t["Resources"]) {
		resource := maps.Clone(asObject(raw))
		delete(resource, "Metadata") // CDK's own notes
		if properties, there := resource["Properties"]; there {
			resource["Properties"] = s.apply(properties)
		}
		asObject(plain["Resources"])[id] = resource
	}
	for name, raw := range asObject(t["Outputs"]) {
		output := maps.Clone(asObject(raw))
		output["Value"] = s.apply(output["Value"])
		asObject(plain["Outputs"])[name] = output
	}
	text, err := encode(plain)
	if found := regexp.MustCompile(`.{0,60}\bParameter[A-Z]\w*`).Find(text); found != nil {
		return nil, fmt.Errorf("a placeholder where no parameter can be: %s", found)
	}
	return plain, err
}

func (s substitutions) apply(value any) any {
	switch value := value.(type) {
	case object:
		plain := object{}
		for key, item := range value {
			plain[key] = s.apply(item)
		}
		return plain
	case []any:
		plain := make([]any, len(value))
		for i, item := range value {
			plain[i] = s.apply(item)
		}
		return plain
	case float64:
		if with, there := s[number(value)]; there {
			return with
		}
	case string:
		return s.text(value)
	}
	return value
}

// text replaces a placeholder that is the whole text, or those within it by Fn::Sub.
func (s substitutions) text(text string) any {
	if with, there := s[text]; there {
		return with
	}
	variables := object{}
	replaced := s.pattern().ReplaceAllStringFunc(strings.ReplaceAll(text, "${", "${!"), func(found string) string {
		if name, plain := asObject(s[found])["Ref"].(string); plain {
			return "${" + name + "}"
		}
		name := lookedUp(s[found])
		variables[name] = s[found]
		return "${" + name + "}"
	})
	switch {
	case !strings.Contains(replaced, "${") || replaced == strings.ReplaceAll(text, "${", "${!"):
		return text
	case len(variables) == 0:
		return object{"Fn::Sub": replaced}
	}
	return object{"Fn::Sub": []any{replaced, variables}}
}

// lookedUp returns the key that lookUp looks up.
func lookedUp(value any) string { return asObject(value)["Fn::FindInMap"].([]any)[2].(string) }

// pattern matches each placeholder where it is a word: digits within a hash are none.
func (s substitutions) pattern() *regexp.Regexp {
	var all []string
	for _, key := range sortedKeys(object(s)) {
		all = append(all, regexp.QuoteMeta(key))
	}
	return regexp.MustCompile(`\b(` + strings.Join(all, "|") + `)\b`)
}

// encode returns compact JSON with sorted keys: the same bytes for the same template. CloudFormation takes 51,200 bytes from a
// local file (https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html).
func encode(t object) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(t)
	return text.Bytes(), err
}

func asObject(value any) object {
	o, _ := value.(object)
	return o
}

// sortedKeys returns the keys of all objects.
func sortedKeys(all ...object) []string {
	keys := map[string]bool{}
	for _, o := range all {
		for key := range o {
			keys[key] = true
		}
	}
	return slices.Sorted(maps.Keys(keys))
}
