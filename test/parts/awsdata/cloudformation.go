package awsdata

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Resources are the resource types of CloudFormation.
type Resources struct {
	types       map[string]definition // by name, such as AWS::SQS::Queue
	definitions map[string]definition // of nested properties, by ID
}

// definition is a resource type, or the type of a nested property.
type definition struct {
	ID         string              `json:"$id"`
	Type       string              `json:"cloudFormationType"` // of a resource
	Properties map[string]property `json:"properties"`
	Attributes map[string]property `json:"attributes"`
	open       bool                // it may have any other properties too
}

type property struct {
	Type     kind   `json:"type"`
	Previous []kind `json:"previousTypes"` // that CloudFormation accepts too
	Required bool   `json:"required"`
}

// kind is the type of a value: a name, and what it is made of.
type kind struct {
	Name      string `json:"type"`
	Element   *kind  `json:"element"` // of an array or a map
	Types     []kind `json:"types"`   // of a union
	Reference struct {
		ID string `json:"$ref"`
	} `json:"reference"`
}

// ReadResources reads all resource types. Without the npm packages, its error says how to install them.
func ReadResources() (Resources, error) {
	var file struct {
		Schema struct {
			Resource       struct{ Entities []definition } `json:"resource"`
			TypeDefinition struct{ Entities []definition } `json:"typeDefinition"`
		} `json:"schema"`
	}
	if err := read("@aws-cdk/aws-service-spec/db.json.gz", &file); err != nil {
		return Resources{}, err
	}
	all := Resources{map[string]definition{}, map[string]definition{}}
	for _, d := range file.Schema.Resource.Entities {
		all.types[d.Type] = d
	}
	for _, d := range file.Schema.TypeDefinition.Entities {
		all.definitions[d.ID] = d
	}
	return all, nil
}

// check is one look at a template.
type check struct {
	Resources
	template map[string]any // the resources by ID
	found    []string
}

// Check returns what CloudFormation would reject in the resources of a template, each with its place: unknown resource types and
// properties, missing ones, values of a wrong type, and unknown attributes. Values that are computed at deployment have any type.
func (r Resources) Check(template map[string]any) []string {
	c := check{Resources: r}
	c.template, _ = template["Resources"].(map[string]any)
	if len(c.template) == 0 {
		return []string{"Resources: there are none"}
	}
	for _, id := range slices.Sorted(maps.Keys(c.template)) {
		resource, _ := c.template[id].(map[string]any)
		name := fmt.Sprint(resource["Type"])
		d, known := r.typeOf(name)
		if !known {
			c.add(id, "no resource type: %s", name)
			continue
		}
		properties, is := resource["Properties"].(map[string]any)
		if resource["Properties"] != nil && !is {
			c.add(id, "Properties is not an object")
			continue
		}
		c.object(id+" ("+name+")", d, properties)
		c.attributes(id, properties)
	}
	return c.found
}

// customResource is the type of custom resources. Types that begin with Custom:: are names for it. It has whatever properties its
// function reads (https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/crpg-ref-requests.html).
const customResource = "AWS::CloudFormation::CustomResource"

func (r Resources) typeOf(name string) (definition, bool) {
	if strings.HasPrefix(name, "Custom::") {
		name = customResource
	}
	d, known := r.types[name]
	d.open = name == customResource
	return d, known
}

func (c *check) add(place, format string, values ...any) {
	c.found = append(c.found, place+": "+fmt.Sprintf(format, values...))
}

// object checks the properties of a resource or of a nested property.
func (c *check) object(place string, d definition, values map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		p, known := d.Properties[name]
		if !known && d.open {
			continue
		}
		if !known {
			c.add(place, "no property: %s", name)
			continue
		}
		if isAbsent(values[name]) {
			continue
		}
		c.anyOf(place+"."+name, append([]kind{p.Type}, p.Previous...), values[name])
	}
	for _, name := range slices.Sorted(maps.Keys(d.Properties)) {
		if d.Properties[name].Required && isAbsent(values[name]) {
			c.add(place, "required: %s", name)
		}
	}
}

// anyOf checks that a value has one of some types. What is found is what the first type says.
func (c *check) anyOf(place string, kinds []kind, value any) {
	var first []string
	for n, k := range kinds {
		attempt := check{Resources: c.Resources}
		attempt.value(place, k, value)
		if len(attempt.found) == 0 {
			return
		}
		if n == 0 {
			first = attempt.found
		}
	}
	c.found = append(c.found, first...)
}

func (c *check) value(place string, k kind, value any) {
	if isComputed(value) {
		return
	}
	switch k.Name {
	case "union":
		c.anyOf(place, k.Types, value)
	case "array":
		c.array(place, k, value)
	case "map":
		items, is := value.(map[string]any)
		if !is {
			c.add(place, "not a map: %v", value)
		}
		for _, key := range slices.Sorted(maps.Keys(items)) {
			c.value(place+"."+key, *k.Element, items[key])
		}
	case "ref":
		items, is := value.(map[string]any)
		if !is {
			c.add(place, "not an object: %v", value)
			return
		}
		c.object(place, c.definitions[k.Reference.ID], items)
	case "tag":
		c.object(place, tag, asObject(value))
	default:
		if !isA(k.Name, value) {
			c.add(place, "not of type %s: %v", k.Name, value)
		}
	}
}

func (c *check) array(place string, k kind, value any) {
	items, is := value.([]any)
	if !is {
		c.add(place, "not an array: %v", value)
	}
	for n, item := range items {
		c.value(fmt.Sprintf("%s[%d]", place, n), *k.Element, item)
	}
}

// tag is the definition of a tag, which the data does not define.
var tag = definition{Properties: map[string]property{
	"Key": {Type: kind{Name: "string"}, Required: true}, "Value": {Type: kind{Name: "string"}, Required: true},
}}

func asObject(value any) map[string]any {
	object, _ := value.(map[string]any)
	return object
}

// isA reports whether a value has a simple type. A type that is not known here is not accepted, so that it is reported.
func isA(name string, value any) bool {
	number, isNumber := value.(float64)
	switch name {
	case "string", "date-time":
		_, is := value.(string)
		return is
	case "boolean":
		_, is := value.(bool)
		return is
	case "integer":
		return isNumber && number == math.Trunc(number)
	case "number":
		return isNumber
	case "json":
		switch value.(type) {
		case map[string]any, []any, string:
			return true
		}
	}
	return false
}

// isComputed reports whether CloudFormation computes a value at deployment
// (https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/intrinsic-function-reference.html).
func isComputed(value any) bool {
	object := asObject(value)
	for key := range object {
		return len(object) == 1 && (key == "Ref" || strings.HasPrefix(key, "Fn::"))
	}
	return false
}

// isAbsent reports whether a property is not there.
func isAbsent(value any) bool { return value == nil || asObject(value)["Ref"] == "AWS::NoValue" }

// attributes checks each Fn::GetAtt of a value: the resource must be there and have the attribute.
func (c *check) attributes(place string, value any) {
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			c.attributes(place, item)
		}
	case map[string]any:
		if path, is := value["Fn::GetAtt"].([]any); is && len(path) == 2 {
			name := fmt.Sprint(asObject(c.template[fmt.Sprint(path[0])])["Type"])
			if _, known := c.types[name].Attributes[fmt.Sprint(path[1])]; !known {
				c.add(place, "%v (%s) has no attribute: %v", path[0], name, path[1])
			}
			return
		}
		for _, key := range slices.Sorted(maps.Keys(value)) {
			c.attributes(place, value[key])
		}
	}
}
