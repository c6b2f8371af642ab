package config

import (
	"cmp"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// mapping is one YAML mapping, read strictly: close reports the keys that get was never called for.
type mapping struct {
	value  // the mapping itself
	values map[string]value
	unread []value
	known  []string // keys that get was called for
}

// get returns the value of a key. A missing one has the line of the mapping.
func (m *mapping) get(key string) value {
	m.known = append(m.known, key)
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

// close reports unknown keys: a former one with its present name, and a misspelled one with the key that is nearest.
func (m *mapping) close() {
	for _, v := range m.unread {
		v.errorf("unknown key%s", cmp.Or(nowCalled(v.path), m.meant(v.path)))
	}
}

// maxTypos is how many letters a misspelled key may have wrong. With more, keys of three letters are near any other.
const maxTypos = 2

// meant returns the end of an error message that names the nearest known key, or nothing.
func (m *mapping) meant(path string) string {
	unknown := strings.ToLower(strings.TrimPrefix(path, m.pathOf("")))
	nearest, least := "", min(maxTypos, len(unknown)/2)+1
	for _, key := range m.known {
		if typos := distance(unknown, strings.ToLower(key)); typos < least {
			nearest, least = key, typos
		}
	}
	if nearest == "" {
		return ""
	}
	return "; did you mean " + nearest + "?"
}

// distance returns the Levenshtein distance of two texts, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1) // of one byte of a; before the first one, all of b is missing
	for i := range row {
		row[i] = i
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			changed := diagonal
			if a[i] != b[j] {
				changed++
			}
			diagonal = row[j+1]
			row[j+1] = min(changed, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
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
		value{line: second.Line, errs: errs}.errorf("only one YAML document is allowed")
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
