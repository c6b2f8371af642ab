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

// mapping is one YAML mapping, read strictly: the keys that nobody got by the time it is closed were not known.
type mapping struct {
	value  // the mapping itself
	values map[string]value
	unread []value
}

// get returns the value of a key; one that is not given stands at the mapping's own line.
func (m *mapping) get(key string) value {
	v, given := m.values[key]
	if !given {
		return value{path: m.pathOf(key), line: m.line, faults: m.faults}
	}
	m.unread = slices.DeleteFunc(m.unread, func(u value) bool { return u.path == v.path })
	return v
}

// has tells whether the key is there, be it with no value.
func (m *mapping) has(key string) bool {
	_, given := m.values[key]
	return given
}

func (m *mapping) pathOf(key string) string {
	if m.path == "" {
		return key
	}
	return m.path + "." + key
}

func (m *mapping) enter(key, node *yaml.Node) {
	key = resolve(key)
	v := value{path: m.pathOf(key.Value), line: key.Line, node: unlessNull(resolve(node)), faults: m.faults}
	if m.has(key.Value) {
		v.fault("given twice")
		return
	}
	m.values[key.Value] = v
	m.unread = append(m.unread, v)
}

func (m *mapping) close() {
	for _, v := range m.unread {
		v.fault("unknown key")
	}
}

// resolve follows an alias to what it stands for.
func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

// unlessNull makes a null what it stands for: a value that is not given.
func unlessNull(node *yaml.Node) *yaml.Node {
	if node.ShortTag() == "!!null" {
		return nil
	}
	return node
}

// document is the file's one YAML document; what is wrong with its syntax becomes a fault, and the value one that is not
// given.
func document(data io.Reader, faults *Errors) value {
	v := value{line: 1, faults: faults}
	decoder := yaml.NewDecoder(data)
	var first, second yaml.Node
	err := decoder.Decode(&first)
	if err == nil {
		v.node = unlessNull(first.Content[0])
		err = decoder.Decode(&second)
	}
	switch {
	case err == nil:
		value{line: second.Line, faults: faults}.fault("a second document")
	case !errors.Is(err, io.EOF):
		*faults = append(*faults, syntaxFault(err))
	}
	return v
}

// syntaxError is how the YAML package words its errors; the line is not to be had otherwise.
var syntaxError = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^yaml: (?:line (\d+): )?((?s:.*))$`)
})

func syntaxFault(err error) Error {
	parts := syntaxError().FindStringSubmatch(err.Error())
	if parts == nil {
		return Error{Line: 1, Reason: err.Error()}
	}
	line, _ := strconv.Atoi(parts[1]) // no number: no line was told
	return Error{Line: max(1, line), Reason: "not YAML: " + parts[2]}
}
