package config

import (
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"sync"

	"go.yaml.in/yaml/v3"
)

// mapping is one YAML mapping, read strictly: close reports the keys that get was never called for.
type mapping struct {
	value  // the mapping itself
	values map[string]value
	unread []value
}

// get returns the value of a key. A missing one has the line of the mapping.
func (m *mapping) get(key string) value {
	v, present := m.values[key]
	if !present {
		return value{path: m.pathOf(key), line: m.line, errs: m.errs}
	}
	m.unread = slices.DeleteFunc(m.unread, func(u value) bool { return u.path == v.path })
	return v
}

// has reports whether the key is present, with or without a value.
func (m *mapping) has(key string) bool {
	_, present := m.values[key]
	return present
}

func (m *mapping) pathOf(key string) string {
	if m.path == "" {
		return key
	}
	return m.path + "." + key
}

// add adds a key and its value.
func (m *mapping) add(key, node *yaml.Node) {
	key = resolve(key)
	v := value{path: m.pathOf(key.Value), line: key.Line, node: nonNull(resolve(node)), errs: m.errs}
	if m.has(key.Value) {
		v.errorf("duplicate key")
		return
	}
	m.values[key.Value] = v
	m.unread = append(m.unread, v)
}

// close reports unknown keys, a former one together with its present name.
func (m *mapping) close() {
	for _, v := range m.unread {
		v.errorf("unknown key%s", nowCalled(v.path))
	}
}

// resolve returns the node that an alias refers to.
func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

// nonNull returns nil for a null: the value counts as not set.
func nonNull(node *yaml.Node) *yaml.Node {
	if node.ShortTag() == "!!null" {
		return nil
	}
	return node
}

// document returns the one YAML document of the file. It reports a syntax error, and then returns a value that is not set.
func document(data io.Reader, errs *Errors) value {
	v := value{line: 1, errs: errs}
	decoder := yaml.NewDecoder(data)
	var first, second yaml.Node
	err := decoder.Decode(&first)
	if err == nil {
		v.node = nonNull(first.Content[0])
		err = decoder.Decode(&second)
	}
	switch {
	case err == nil:
		value{line: second.Line, errs: errs}.errorf("a second YAML document")
	case !errors.Is(err, io.EOF):
		*errs = append(*errs, toSyntaxError(err))
	}
	return v
}

// syntaxError is the form of the YAML package's errors. Only the text has the line.
var syntaxError = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^yaml: (?:line (\d+): )?((?s:.*))$`)
})

func toSyntaxError(err error) Error {
	parts := syntaxError().FindStringSubmatch(err.Error())
	if parts == nil {
		return Error{Line: 1, Reason: err.Error()}
	}
	line, _ := strconv.Atoi(parts[1]) // the text has no line: 0
	return Error{Line: max(1, line), Reason: "not YAML: " + parts[2]}
}
