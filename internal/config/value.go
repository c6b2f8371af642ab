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

// value is what a key, or an item of a list, was given. Its methods put it where it belongs; if something is wrong with
// it, they report a fault instead, and what was there before, the default, stays. A value that is not given changes nothing.
type value struct {
	path   string
	line   int
	node   *yaml.Node // nil: not given
	faults *Errors
}

func (v value) given() bool { return v.node != nil }

// required reports a value that is not given.
func (v value) required() value {
	if !v.given() {
		v.fault("missing")
	}
	return v
}

func (v value) fault(format string, args ...any) {
	*v.faults = append(*v.faults, Error{Line: v.line, Key: v.path, Reason: fmt.Sprintf(format, args...)})
}

// scalar returns the value's text if it is of one of the tags; else it is reported not to be what was wanted.
func (v value) scalar(wanted string, tags ...string) (text string, ok bool) {
	switch {
	case !v.given():
		return "", false
	case v.node.Kind != yaml.ScalarNode:
		v.fault("must be %s", wanted)
		return "", false
	case !slices.Contains(tags, v.node.ShortTag()):
		v.fault("must be %s: %s", wanted, v.node.Value)
		return "", false
	}
	return v.node.Value, true
}

func (v value) text(into *string) {
	v.checked(func(text string) error {
		*into = text
		return nil
	})
}

// checked gives a text that is not empty to take, which can refuse it.
func (v value) checked(take func(string) error) {
	text, ok := v.scalar("a string", "!!str")
	if !ok {
		return
	}
	if text == "" {
		v.fault("must not be empty")
		return
	}
	if err := take(text); err != nil {
		v.fault("%v", err)
	}
}

// choose takes one of the words that are allowed.
func choose[T ~string](v value, into *T, allowed ...T) {
	v.checked(func(text string) error {
		if !slices.Contains(allowed, T(text)) {
			return fmt.Errorf("must be %s: %s", oneOf(allowed), text)
		}
		*into = T(text)
		return nil
	})
}

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
		v.fault("must be from %d to %d: %s", least, most, text)
		return
	}
	*into = n
}

// duration takes a duration that is not negative.
func (v value) duration(into *time.Duration) {
	const wanted = "a duration such as 30s"
	text, ok := v.scalar(wanted, "!!str", "!!int", "!!float")
	if !ok {
		return
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		v.fault("must be %s: %s", wanted, text)
	case d < 0:
		v.fault("must not be negative: %s", text)
	default:
		*into = d
	}
}

// span takes a duration that is longer than zero.
func (v value) span(into *time.Duration) {
	d := *into
	if v.duration(&d); d == 0 {
		v.fault("must be longer than zero")
		return
	}
	*into = d
}

// shorterThan reports a duration, given as this value, that is not shorter than another key's.
func (v value) shorterThan(key string, limit, d time.Duration) {
	if d >= limit {
		v.fault("must be shorter than %s: %v is not shorter than %v", key, d, limit)
	}
}

// mapping has a mapping read; one that is not given reads as empty.
func (v value) mapping(read func(*mapping)) {
	m := &mapping{value: v, values: map[string]value{}}
	switch {
	case !v.given():
	case v.node.Kind != yaml.MappingNode:
		v.fault("must be a mapping")
		return
	default:
		for pair := range slices.Chunk(v.node.Content, 2) {
			m.enter(pair[0], pair[1])
		}
	}
	read(m)
	m.close()
}

// section has a mapping read if it is given.
func (v value) section(read func(*mapping)) {
	if v.given() {
		v.mapping(read)
	}
}

// items are the values of a list, which must not be empty if it is given.
func (v value) items() []value {
	switch {
	case !v.given():
		return nil
	case v.node.Kind != yaml.SequenceNode:
		v.fault("must be a list")
		return nil
	case len(v.node.Content) == 0:
		v.fault("must not be empty")
	}
	items := make([]value, len(v.node.Content))
	for i, node := range v.node.Content {
		items[i] = value{path: fmt.Sprintf("%s[%d]", v.path, i), line: node.Line, node: resolve(node), faults: v.faults}
	}
	return items
}

// names takes a list of texts of which none is there twice.
func (v value) names(into *[]string, check func(string) error) {
	var names []string
	for _, item := range v.items() {
		item.checked(func(name string) error {
			if slices.Contains(names, name) {
				return errors.New("given twice: " + name)
			}
			names = append(names, name)
			return check(name)
		})
	}
	if v.given() {
		*into = names
	}
}

// globs takes a list of names or globs.
func (v value) globs(into *Globs) {
	v.names((*[]string)(into), func(glob string) error {
		if _, err := path.Match(glob, ""); err != nil {
			return fmt.Errorf("not a name or a glob: %s", glob)
		}
		return nil
	})
}
