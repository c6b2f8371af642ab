package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// document is one object of a manifest, with its comments.
type document struct{ *yaml.Node }

// Render returns manifests that kubectl apply installs, with the comments that say why each permission is needed.
func Render(o Options) ([]byte, error) {
	documents, err := render(o)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	for _, d := range documents {
		unfold(d.Node)
		if err := encoder.Encode(d.Node); err != nil {
			return nil, fmt.Errorf("write manifests: %w", err)
		}
	}
	return text.Bytes(), encoder.Close()
}

// unfold makes folded texts literal ones: the encoder writes indented lines of folded texts so that they mean something else.
func unfold(node *yaml.Node) {
	if node.Style == yaml.FoldedStyle {
		node.Style = yaml.LiteralStyle
	}
	for _, inner := range node.Content {
		unfold(inner)
	}
}

// Objects returns the same as objects, in the order in which they are installed.
func Objects(o Options) (Set, error) {
	documents, err := render(o)
	if err != nil {
		return nil, err
	}
	var objects Set
	for _, d := range documents {
		object := &unstructured.Unstructured{}
		if err := d.Decode(&object.Object); err != nil {
			return nil, fmt.Errorf("read manifests: %w", err)
		}
		objects = append(objects, object)
	}
	return objects, nil
}

func render(o Options) ([]document, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	documents, err := read(baseFile)
	if err != nil {
		return nil, err
	}
	for _, c := range o.Consoles {
		console, err := read(consoleFile)
		if err != nil {
			return nil, err
		}
		documents = append(documents, fillConsole(console, c)...)
	}
	for _, kind := range []struct {
		file, template, member string
		clusters               []Cluster
	}{
		{patroniFile, "demo", "%s:8008", o.Patroni},
		{cnpgFile, "pg", "https:%s:8000", o.CloudNativePG},
	} {
		for _, c := range kind.clusters {
			cluster, err := read(kind.file)
			if err != nil {
				return nil, err
			}
			for _, d := range cluster {
				fillCluster(d.Node, kind.template, kind.member, c)
			}
			documents = append(documents, cluster...)
		}
	}
	return distinct(documents), nil
}

// read reads the objects of a manifest.
func read(file string) (documents []document, err error) {
	text, err := files.ReadFile(path.Join("manifests", file))
	if err != nil {
		return nil, fmt.Errorf("read manifests: %w", err)
	}
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var node yaml.Node
		switch err := decoder.Decode(&node); {
		case errors.Is(err, io.EOF):
			return documents, nil
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", file, err)
		case node.Kind == yaml.DocumentNode && node.Content[0].Kind == yaml.MappingNode: // not one of comments only
			documents = append(documents, document{&node})
		}
	}
}

// distinct leaves out what an earlier document has: the policies of a template are the same for all of its copies.
func distinct(documents []document) (kept []document) {
	seen := map[string]bool{}
	for _, d := range documents {
		if identity := d.identity(); !seen[identity] {
			seen[identity] = true
			kept = append(kept, d)
		}
	}
	return kept
}

func (d document) identity() string {
	var o struct {
		Kind     string
		Metadata struct{ Namespace, Name string }
	}
	_ = d.Decode(&o) // an object without names has an identity too
	return strings.Join([]string{o.Kind, o.Metadata.Namespace, o.Metadata.Name}, "/")
}

// fillConsole fills in the template of the access to consoles. It removes rules that the console does not need, and the role if none
// is left.
func fillConsole(template []document, c Console) []document {
	for _, d := range template {
		setValue(d.Node, "namespace", "db", c.Namespace)
		rules := child(d.Content[0], "rules")
		if rules == nil {
			continue
		}
		rules.Content = slices.DeleteFunc(rules.Content, func(rule *yaml.Node) bool {
			if resources := child(rule, "resources").Content[0].Value; resources == "secrets" {
				child(rule, "resourceNames").Content = scalars(c.Secrets)
				return len(c.Secrets) == 0
			}
			return !c.Forward
		})
		if len(rules.Content) == 0 {
			return nil
		}
	}
	return template
}

// fillCluster fills in the template of a cluster: the namespace db, names that begin with that of the template's cluster, and members.
func fillCluster(node *yaml.Node, template, member string, c Cluster) {
	setValue(node, "namespace", "db", c.Namespace)
	if node.Kind == yaml.MappingNode {
		if names := child(node, "resourceNames"); names != nil && child(node, "resources").Content[0].Value == "pods/proxy" {
			names.Content = nil
			for _, name := range c.Members {
				names.Content = append(names.Content, scalars([]string{fmt.Sprintf(member, name)})...)
			}
			return
		}
		if name := child(node, "name"); name != nil && name.Value == "quiesce-postgres-"+template {
			name.Value = "quiesce-postgres-" + c.Name
		}
		if names := child(node, "resourceNames"); names != nil {
			for _, name := range names.Content {
				if rest, is := strings.CutPrefix(name.Value, template); is && (rest == "" || rest[0] == '-') {
					name.Value = c.Name + rest
				}
			}
		}
	}
	for _, inner := range node.Content {
		fillCluster(inner, template, member, c)
	}
}

// scalars returns texts as nodes.
func scalars(texts []string) (nodes []*yaml.Node) {
	for _, text := range texts {
		nodes = append(nodes, &yaml.Node{Kind: yaml.ScalarNode, Style: yaml.DoubleQuotedStyle, Value: text})
	}
	return nodes
}

// setValue sets a key, wherever it has the value before.
func setValue(node *yaml.Node, key, before, after string) {
	if node.Kind == yaml.MappingNode {
		if value := child(node, key); value != nil && value.Value == before {
			value.Value = after
		}
	}
	for _, inner := range node.Content {
		setValue(inner, key, before, after)
	}
}

// child returns the value of a key; nil: there is none.
func child(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}
