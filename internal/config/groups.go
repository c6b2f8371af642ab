package config

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Groups says which Auto Scaling groups quiesce manages: by name, by glob or by tag. One of them is enough.
type Groups struct {
	Names Globs
	Tags  []Tag
}

// Tag is a tag of an Auto Scaling group.
type Tag struct{ Key, Value string }

// Match reports whether a group is managed, by its name or by its tags.
func (g Groups) Match(name string, tags map[string]string) bool {
	return g.Names.Match(name) || slices.ContainsFunc(g.Tags, func(t Tag) bool {
		value, tagged := tags[t.Key]
		return tagged && value == t.Value
	})
}

// Listed returns the names of all groups if each is named exactly. Otherwise it returns nil: only AWS knows which groups there are.
func (g Groups) Listed() []string {
	if exact := g.Names.Exact(); len(g.Tags) == 0 && len(exact) == len(g.Names) {
		return exact
	}
	return nil
}

// read reads a list of names, globs and tags.
func (g *Groups) read(v value) {
	var read Groups
	for _, item := range v.items() {
		if item.isMapping() {
			item.mapping(func(m *mapping) { m.get("tag").required().checked(read.addTag) })
		} else {
			item.checked(read.addName)
		}
	}
	if v.isSet() {
		*g = read
	}
}

func (g *Groups) addName(glob string) error {
	if slices.Contains(g.Names, glob) {
		return errors.New("duplicate: " + glob)
	}
	if _, err := path.Match(glob, ""); err != nil {
		return fmt.Errorf("not a name or a glob: %s", glob)
	}
	g.Names = append(g.Names, glob)
	return groupName(glob)
}

// groupNameMax is the longest name of an Auto Scaling group. A name is ASCII without control characters and without a colon:
// https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_CreateAutoScalingGroup.html.
const groupNameMax = 255

func groupName(name string) error {
	invalid := func(r rune) bool { return r < ' ' || r > '~' || r == ':' }
	if len(name) > groupNameMax || strings.ContainsFunc(name, invalid) {
		return fmt.Errorf("not a group name, nor a glob of group names: %q", name)
	}
	return nil
}

// tagForm is the form of a tag, key=value. AWS defines the signs and lengths:
// https://docs.aws.amazon.com/tag-editor/latest/userguide/tagging.html. The key ends at the first equals sign. Signs with a meaning in IAM
// policies are not among them.
var tagForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([\p{L}\p{N} _.:/+@-]{1,128})=([\p{L}\p{N} _.:/=+@-]{0,256})$`)
})

func (g *Groups) addTag(text string) error {
	parts := tagForm().FindStringSubmatch(text)
	if parts == nil {
		return fmt.Errorf("not a tag such as team=payments: %q", text)
	}
	tag := Tag{Key: parts[1], Value: parts[2]}
	if slices.Contains(g.Tags, tag) {
		return errors.New("duplicate: " + text)
	}
	g.Tags = append(g.Tags, tag)
	return nil
}
