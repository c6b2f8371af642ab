package config

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// value is the value of a key, or an item of a list. Its methods check it and store it. They report an invalid one, and keep
// the default in its place. A value that is not set changes nothing.
type value struct {
	path string
	line int
	node *yaml.Node // nil: not set
	errs *Errors
}

// isSet reports whether the value is set.
func (v value) isSet() bool { return v.node != nil }

// required reports a missing value.
func (v value) required() value {
	if !v.isSet() {
		v.errorf("required")
	}
	return v
}

// errorf reports an error in the value.
func (v value) errorf(format string, args ...any) {
	*v.errs = append(*v.errs, Error{Line: v.line, Key: v.path, Reason: fmt.Sprintf(format, args...)})
}

// scalar returns the text of a value that has one of the tags. It reports any other value that is set.
func (v value) scalar(wanted string, tags ...string) (text string, ok bool) {
	switch {
	case !v.isSet():
		return "", false
	case v.node.Kind != yaml.ScalarNode:
		v.errorf("must be %s", wanted)
		return "", false
	case !slices.Contains(tags, v.node.ShortTag()):
		v.errorf("must be %s: %s", wanted, v.node.Value)
		return "", false
	}
	return v.node.Value, true
}

// checked passes a text that is not empty to set, and reports its error.
func (v value) checked(set func(string) error) {
	text, ok := v.scalar("a string", "!!str")
	if !ok {
		return
	}
	if text == "" {
		v.errorf("must not be empty")
		return
	}
	if err := set(text); err != nil {
		v.errorf("%v", err)
	}
}

// choose reads one of the allowed words.
func choose[T ~string](v value, into *T, allowed ...T) {
	v.checked(func(text string) error {
		if !slices.Contains(allowed, T(text)) {
			return fmt.Errorf("must be %s: %s%s", oneOf(allowed), text, nowCalled(v.path+"="+text))
		}
		*into = T(text)
		return nil
	})
}

// oneOf returns the words as an English list: a, b or c.
func oneOf[T ~string](words []T) string {
	texts := make([]string, len(words))
	for i, word := range words {
		texts[i] = string(word)
	}
	last := len(texts) - 1
	return strings.Join(texts[:last], ", ") + " or " + texts[last]
}

func (v value) flag(into *bool) {
	if text, ok := v.scalar("true or false", "!!bool"); ok {
		*into = strings.EqualFold(text, "true")
	}
}

func (v value) number(into *int, least, most int) {
	text, ok := v.scalar("a whole number", "!!int")
	if !ok {
		return
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		v.errorf("must be from %d to %d: %s", least, most, text)
		return
	}
	*into = n
}

// maxDuration is how long Auto Scaling keeps an instance waiting at most:
// https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html.
const maxDuration = MaxWait

// duration reads a duration that is not negative, and no longer than maxDuration.
func (v value) duration(into *time.Duration) {
	const wanted = "a duration such as 30s"
	text, ok := v.scalar(wanted, "!!str", "!!int", "!!float")
	if !ok {
		return
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		v.errorf("must be %s: %s", wanted, text)
	case d < 0:
		v.errorf("must not be negative: %s", text)
	case d > maxDuration:
		v.errorf("must not be longer than %.0fh: %s", maxDuration.Hours(), text)
	default:
		*into = d
	}
}

// positiveDuration reads a duration that is longer than zero.
func (v value) positiveDuration(into *time.Duration) {
	d := *into
	if v.duration(&d); d == 0 {
		v.errorf("must be longer than zero")
		return
	}
	*into = d
}

// shorterThanDrain reports this value, the duration d, if it is not shorter than the longest drain.
func (v value) shorterThanDrain(longest, d time.Duration) {
	if d >= longest {
		v.errorf("must be shorter than drain.maxDuration: %v is not shorter than %v", d, longest)
	}
}

// isMapping reports whether the value is a mapping.
func (v value) isMapping() bool { return v.isSet() && v.node.Kind == yaml.MappingNode }

// mapping calls read with a mapping. A value that is not set counts as an empty one.
func (v value) mapping(read func(*mapping)) {
	m := &mapping{value: v, values: map[string]value{}}
	switch {
	case !v.isSet():
	case v.node.Kind != yaml.MappingNode:
		v.errorf("must be a mapping")
		return
	default:
		for pair := range slices.Chunk(v.node.Content, 2) {
			m.add(pair[0], pair[1])
		}
	}
	read(m)
	m.close()
}

// section calls read with a mapping if the value is set.
func (v value) section(read func(*mapping)) {
	if v.isSet() {
		v.mapping(read)
	}
}

// items returns the values of a list. It reports an empty one.
func (v value) items() []value {
	switch {
	case !v.isSet():
		return nil
	case v.node.Kind != yaml.SequenceNode:
		v.errorf("must be a list")
		return nil
	case len(v.node.Content) == 0:
		v.errorf("must not be empty")
	}
	items := make([]value, len(v.node.Content))
	for i, node := range v.node.Content {
		items[i] = value{path: fmt.Sprintf("%s[%d]", v.path, i), line: node.Line, node: resolve(node), errs: v.errs}
	}
	return items
}

// names reads a list of distinct texts.
func (v value) names(into *[]string, check func(string) error) {
	var names []string
	for _, item := range v.items() {
		item.checked(func(name string) error {
			if slices.Contains(names, name) {
				return errors.New("duplicate: " + name)
			}
			names = append(names, name)
			return check(name)
		})
	}
	if v.isSet() {
		*into = names
	}
}

// optionalNames is names for a list that may be empty: that is the default.
func (v value) optionalNames(into *[]string, check func(string) error) {
	if v.isSet() && v.node.Kind == yaml.SequenceNode && len(v.node.Content) == 0 {
		return
	}
	v.names(into, check)
}

// globs reads a list of names or globs.
func (v value) globs(into *Globs, check func(string) error) {
	v.names((*[]string)(into), func(glob string) error {
		if _, err := path.Match(glob, ""); err != nil {
			return fmt.Errorf("not a name or a glob: %s", glob)
		}
		return check(glob)
	})
}
