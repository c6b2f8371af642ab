package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// declaration is the file: what roles there shall be.
type declaration struct {
	ReassignTo string `yaml:"reassignTo"` // who gets what dropped roles own; empty: such roles are not dropped
	Roles      []role `yaml:"roles"`
}

// role is one declared role. What is not written has PostgreSQL's default, and is compared too.
type role struct {
	Name            string    `yaml:"name"`
	Login           loginMode `yaml:"login"`
	Replication     bool      `yaml:"replication"`
	ConnectionLimit *int      `yaml:"connectionLimit"`
	PasswordFrom    source    `yaml:"passwordFrom"`
	MemberOf        []string  `yaml:"memberOf"`
	SetRole         string    `yaml:"setRole"`
	ReassignTo      string    `yaml:"reassignTo"`
	Grants          []grant   `yaml:"grants"`

	Password *secret `yaml:"-"` // nil: not managed here
}

func (r role) limit() int {
	if r.ConnectionLimit == nil {
		return -1
	}
	return *r.ConnectionLimit
}

// loginMode says whether a role may log in.
type loginMode string

const (
	group   loginMode = ""        // no login
	login   loginMode = "true"    //
	rotated loginMode = "rotated" // made without login, and then left alone: a rotation enables and disables it
)

// UnmarshalYAML reads true, false or rotated.
func (m *loginMode) UnmarshalYAML(node *yaml.Node) error {
	switch node.Value {
	case "true", "rotated":
		*m = loginMode(node.Value)
	case "false":
		*m = group
	default:
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: login must be true, false or rotated", node.Line)}}
	}
	return nil
}

// source is where a password is.
type source struct {
	Env  string `yaml:"env"`
	File string `yaml:"file"`
}

// grant is privileges on one kind of objects.
type grant struct {
	On         string   `yaml:"on"`
	Database   string   `yaml:"database"`
	Schema     string   `yaml:"schema"`
	CreatedBy  string   `yaml:"createdBy"` // empty: objects that exist; else those that this role will create
	Privileges []string `yaml:"privileges"`
}

// The kinds of objects.
const (
	onDatabase  = "database"
	onSchema    = "schema"
	onTables    = "tables"
	onSequences = "sequences"
	onFunctions = "functions" // and procedures
)

// privilegesOn are the privileges that PostgreSQL has on each kind (https://www.postgresql.org/docs/17/ddl-priv.html).
var privilegesOn = map[string][]string{
	onDatabase:  {"CONNECT", "CREATE", "TEMPORARY"},
	onSchema:    {"CREATE", "USAGE"},
	onTables:    {"DELETE", "INSERT", "MAINTAIN", "REFERENCES", "SELECT", "TRIGGER", "TRUNCATE", "UPDATE"},
	onSequences: {"SELECT", "UPDATE", "USAGE"},
	onFunctions: {"EXECUTE"},
}

// readFile reads a declaration, without its passwords. It returns every error with its line.
func readFile(path string) (declaration, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return declaration{}, fmt.Errorf("read the roles: %w", err)
	}
	d, err := parse(content)
	if err != nil {
		return declaration{}, fmt.Errorf("read the roles: %s: %w", path, err)
	}
	return d, nil
}

func parse(content []byte) (d declaration, err error) {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&d); errors.Is(err, io.EOF) {
		return d, errors.New("it is empty")
	} else if err != nil {
		return d, plain(err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return d, errors.New("only one YAML document is allowed")
	}
	var tree yaml.Node
	if err := yaml.Unmarshal(content, &tree); err != nil {
		return d, plain(err)
	}
	c := checker{lines: lines{tree.Content[0]}}
	c.check(d)
	for i := range d.Roles {
		slices.Sort(d.Roles[i].MemberOf)
	}
	return d, errors.Join(c.errs...)
}

// The YAML package's messages. They have names of Go's types, and values: a password in the wrong place must not be printed.
var (
	unknownKey = regexp.MustCompile(`field (\S+) not found in type \S+`)
	wrongValue = regexp.MustCompile(`(?s)cannot unmarshal !!(\w+) .*into .*`)
	syntax     = regexp.MustCompile(`(?s)^yaml: (line \d+): .*`)
)

func plain(err error) error {
	wrong, is := errors.AsType[*yaml.TypeError](err)
	if !is {
		if parts := syntax.FindStringSubmatch(err.Error()); parts != nil {
			return errors.New(parts[1] + ": not YAML")
		}
		return errors.New("not YAML")
	}
	var errs []error
	for _, text := range wrong.Errors {
		text = unknownKey.ReplaceAllString(text, "unknown key $1")
		text = strings.ReplaceAll(text, "unknown key password", "unknown key password: name its place with passwordFrom")
		text = strings.ReplaceAll(text, "passwordFromFrom", "passwordFrom")
		errs = append(errs, errors.New(wrongValue.ReplaceAllString(text, "a $1 does not belong here")))
	}
	return errors.Join(errs...)
}

// lines finds the lines of values by their keys and positions.
type lines struct{ root *yaml.Node }

// at returns the line of the value at a path, or of the innermost part of the path that is there.
func (l lines) at(path ...any) int {
	node, line := l.root, l.root.Line
	for _, step := range path {
		var key *yaml.Node
		if key, node = child(node, step); node == nil {
			break
		}
		line = key.Line
	}
	return line
}

// child returns a value of a mapping or a sequence, and the node that shows where it is.
func child(node *yaml.Node, step any) (key, value *yaml.Node) {
	if node == nil {
		return nil, nil
	}
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	switch step := step.(type) {
	case int:
		if node.Kind == yaml.SequenceNode && step < len(node.Content) {
			return node.Content[step], node.Content[step]
		}
	case string:
		for pair := range slices.Chunk(node.Content, 2) {
			if node.Kind == yaml.MappingNode && pair[0].Value == step {
				return pair[0], pair[1]
			}
		}
	}
	return nil, nil
}

// resolve reads the passwords from the environment and from files.
func (d *declaration) resolve(getenv func(string) string) error {
	var errs []error
	for i := range d.Roles {
		r := &d.Roles[i]
		if r.PasswordFrom == (source{}) {
			continue
		}
		password, err := r.PasswordFrom.read(getenv)
		if err != nil {
			errs = append(errs, fmt.Errorf("role %s: %w", r.Name, err))
			continue
		}
		r.Password = &secret{password}
	}
	return errors.Join(errs...)
}

// read returns the password. Its errors do not have it.
func (s source) read(getenv func(string) string) (string, error) {
	text, where := getenv(s.Env), "the environment variable "+s.Env
	if s.File != "" {
		content, err := os.ReadFile(s.File)
		if err != nil {
			return "", fmt.Errorf("read its password: %w", err)
		}
		text, where = string(content), "the file "+s.File
	}
	text = strings.TrimRight(text, "\r\n") // editors and echo add one
	switch {
	case text == "":
		return "", fmt.Errorf("its password is empty: set %s", where)
	case strings.ContainsAny(text, "\x00\r\n"):
		return "", fmt.Errorf("its password in %s has several lines or a zero byte", where)
	}
	if err := (secret{text}).check(); err != nil {
		return "", fmt.Errorf("its password in %s is %w", where, err)
	}
	return text, nil
}
