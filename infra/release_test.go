package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
)

const (
	releasedVersion = "v1.2.3-4-g0123456789ab-dirty"
	// phases is a drain order as people put it into Systems Manager.
	phases = `- name: poolers
  match: {namespaces: [db]}
  escort: {pgbouncer: {secretRef: {namespace: db, name: pgbouncer-admin}}}
- {name: batch, match: {namespaces: ["batch-*"]}, timeout: 2m}
`
)

// synthesizedRelease is a release with the templates that CDK makes for it, and its own template of them.
type synthesizedRelease struct {
	release
	variants []map[string]any
	text     []byte
}

var released = sync.OnceValues(func() (s synthesizedRelease, err error) {
	folder, err := os.MkdirTemp("", "quiesce-release-")
	if err != nil {
		return s, err
	}
	s.release = newRelease(releasedVersion, folder)
	if err = os.WriteFile(s.zip, []byte("the zip"), 0o644); err != nil {
		return s, err
	}
	if s.variants, err = s.synthesize(folder); err != nil {
		return s, err
	}
	s.text, err = s.template(s.variants)
	return s, err
})

func releasedTemplate(t *testing.T) (object, synthesizedRelease) {
	t.Helper()
	requireNode(t)
	s, err := released()
	require.NoError(t, err)
	var raw object
	require.NoError(t, json.Unmarshal(s.text, &raw))
	return raw, s
}

// releasedStack returns the release as a stack, with the template as it is for the tests that can read it.
func releasedStack(t *testing.T) template {
	t.Helper()
	raw, s := releasedTemplate(t)
	made, err := json.Marshal(evaluate(t, raw, releasedStacks[0]).asMade)
	require.NoError(t, err)
	stack := template{text: string(s.text)}
	require.NoError(t, json.Unmarshal(made, &stack))
	return stack.resolved()
}

// The stacks that a test compares: what people must say, and the opposite of all defaults.
var releasedStacks = []map[string]string{
	{"ClusterName": "prod", "CodeBucket": "releases", "AWS::StackName": "quiesce-prod"},
	{
		"ClusterName": "971_eu", "CodeBucket": "releases", "AWS::StackName": "drains", "CodePrefix": "quiesce/", "Mode": "drain", "MaxDuration": "33h",
		"OnDeadline": "keep", "Phases": "/quiesce/phases:7", "MaxConcurrency": "2", "ReservedConcurrency": "false", "AccessEntry": "false",
	},
}

// CDK makes each stack from the configuration that the release gives to its function. So the stack, the function and the release agree.
func TestRelease_FilledIn_IsWhatCDKMakes(t *testing.T) {
	t.Setenv(versionVariable, releasedVersion) // as make does for CDK
	raw, _ := releasedTemplate(t)
	var configurations []string
	var stacks []evaluated
	for _, values := range releasedStacks {
		e := evaluate(t, raw, values)
		stacks, configurations = append(stacks, e), append(configurations, e.configuration(t))
	}
	made, err := synthesize(configurations...)
	require.NoError(t, err)
	for i, values := range releasedStacks {
		var want object
		require.NoError(t, json.Unmarshal([]byte(made[values["AWS::StackName"]].text), &want))
		for _, section := range []string{"Resources", "Outputs"} {
			got, wanted := comparable(stacks[i].asMade[section]), comparable(want[section])
			require.Equal(t, sortedKeys(wanted), sortedKeys(got), section)
			if section == "Resources" {
				require.Contains(t, fmt.Sprint(wanted), versionVariable+":"+releasedVersion)
			}
			for id := range wanted {
				require.Equal(t, wanted[id], got[id], "%s %s", section, id)
			}
		}
		rest := sortedKeys(want)
		require.Equal(t, []string{"Description", "Outputs", "Parameters", "Resources", "Rules"}, rest, "nothing else that a release lacks")
		require.Len(t, want["Parameters"], 1, "the version of CDK's bootstrap, and the rule that checks it: a release needs no bootstrap")
	}
}

// comparable returns resources or outputs without what must differ between a release and CDK.
func comparable(section any) object {
	plain := object{}
	for id, raw := range asObject(asText(section)) {
		item := asObject(raw)
		delete(item, "Metadata") // suppressions of cdk-nag
		properties := asObject(item["Properties"])
		switch item["Type"] {
		case "AWS::Lambda::Function":
			delete(properties, "Code") // the bucket and the key are parameters, and those of CDK's bootstrap
			environment := asObject(asObject(properties["Environment"])["Variables"])
			if delete(environment, "QUIESCE_CONFIG_TEXT"); len(environment) == 0 { // CDK's zip has the configuration
				delete(properties, "Environment")
			}
		case "AWS::Lambda::Version":
			delete(properties, "CodeSha256")  // what replaces the version when a parameter changes:
			delete(properties, "Description") // CDK gives it a new ID
		}
		if id == "Rbac" {
			item["Value"] = strings.Replace(item["Value"].(string), "infra/", "", 1) // where a release has it
		}
		if needs, is := item["DependsOn"].([]any); is {
			slices.SortFunc(needs, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
		}
		plain[versionID(id)] = item
	}
	return plain
}

var idOfVersion = regexp.MustCompile(`^(FunctionCurrentVersion)[0-9A-Fa-f]+$`)

func versionID(id string) string { return idOfVersion.ReplaceAllString(id, "$1") }

// asText returns a copy with numbers as CloudFormation sees them, and without the hash in the ID of the version.
func asText(value any) any {
	switch value := value.(type) {
	case object:
		plain := object{}
		for key, item := range value {
			plain[key] = asText(item)
		}
		return plain
	case []any:
		plain := make([]any, len(value))
		for i, item := range value {
			plain[i] = asText(item)
		}
		return plain
	case float64:
		return number(value)
	case string:
		return versionID(value)
	}
	return value
}

// evaluated is a template with values for its parameters. Functions of resources and pseudo parameters remain.
type evaluated struct {
	raw, asMade object
	values      map[string]string
}

// evaluate does what CloudFormation does with parameters, mappings and conditions.
func evaluate(t *testing.T, raw object, values map[string]string) evaluated {
	t.Helper()
	e := evaluated{raw: raw, values: maps.Clone(values)}
	for name, p := range asObject(raw["Parameters"]) {
		if value, given := values[name]; given {
			requireAllowed(t, name, value, asObject(p))
		} else {
			require.Contains(t, p, "Default", name)
			e.values[name] = asObject(p)["Default"].(string)
		}
	}
	e.asMade = object{}
	for _, section := range []string{"Resources", "Outputs"} {
		kept := object{}
		for id, item := range asObject(raw[section]) {
			if condition, is := asObject(item)["Condition"].(string); !is || e.holds(condition) {
				kept[id] = e.value(item)
				delete(asObject(kept[id]), "Condition")
			}
		}
		e.asMade[section] = kept
	}
	for _, item := range asObject(e.asMade["Resources"]) {
		if needs, is := asObject(item)["DependsOn"].([]any); is {
			asObject(item)["DependsOn"] = slices.DeleteFunc(needs, func(id any) bool { return asObject(e.asMade["Resources"])[id.(string)] == nil })
		}
	}
	return e
}

// requireAllowed requires that a parameter may have a value.
func requireAllowed(t *testing.T, name, value string, p object) {
	t.Helper()
	if pattern, is := p["AllowedPattern"].(string); is {
		require.Regexp(t, pattern, value, name)
		return
	}
	require.Contains(t, p["AllowedValues"], value, name)
}

func (e evaluated) holds(condition string) bool {
	return e.test(asObject(e.raw["Conditions"])[condition])
}

func (e evaluated) test(condition any) bool {
	if not, is := asObject(condition)["Fn::Not"].([]any); is {
		return !e.test(not[0])
	}
	sides := asObject(condition)["Fn::Equals"].([]any)
	return e.value(sides[0]) == e.value(sides[1])
}

func (e evaluated) value(value any) any {
	switch value := value.(type) {
	case object:
		if isFunction(value) {
			return e.function(value)
		}
		plain := object{}
		for key, item := range value {
			if with := e.value(item); !isAbsent(with) {
				plain[key] = with
			}
		}
		return plain
	case []any:
		plain := []any{}
		for _, item := range value {
			if with := e.value(item); !isAbsent(with) {
				plain = append(plain, with)
			}
		}
		return plain
	}
	return value
}

func isAbsent(value any) bool { return asObject(value)["Ref"] == "AWS::NoValue" }

func (e evaluated) function(f object) any {
	for name, argument := range f {
		list, _ := argument.([]any)
		switch name {
		case "Ref":
			if value, is := e.values[argument.(string)]; is {
				return value
			}
		case "Fn::If":
			if e.holds(list[0].(string)) {
				return e.value(list[1])
			}
			return e.value(list[2])
		case "Fn::FindInMap":
			table := asObject(asObject(e.raw["Mappings"])[list[0].(string)])
			return asObject(table[e.value(list[1]).(string)])[list[2].(string)]
		case "Fn::Sub":
			if text, is := argument.(string); is {
				return e.sub(text, nil)
			}
			return e.sub(list[0].(string), asObject(list[1]))
		}
		return object{name: e.value(argument)}
	}
	return f
}

var (
	variable = regexp.MustCompile(`\$\{([^}]*)\}`)
	resolve  = regexp.MustCompile(`\{\{resolve:ssm:([^}]*)\}\}`)
)

// sub does what Fn::Sub does, and looks up dynamic references.
func (e evaluated) sub(text string, variables object) any {
	replaced := variable.ReplaceAllStringFunc(text, func(found string) string {
		name := found[2 : len(found)-1]
		if literal, is := strings.CutPrefix(name, "!"); is {
			return "${" + literal + "}"
		}
		if value, is := variables[name]; is {
			return e.value(value).(string)
		}
		if value, is := e.values[name]; is {
			return value
		}
		panic("unknown variable " + name)
	})
	return resolve.ReplaceAllStringFunc(replaced, func(reference string) string {
		if reference != "{{resolve:ssm:/quiesce/phases:7}}" {
			panic("unknown reference " + reference)
		}
		return phases
	})
}

// configuration returns the configuration that the function of the stack gets.
func (e evaluated) configuration(t *testing.T) string {
	t.Helper()
	return e.configurations(t)["bootstrap"]
}

// configurations returns the configurations of the stack's functions, by handler.
func (e evaluated) configurations(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, r := range asObject(e.asMade["Resources"]) {
		if properties := asObject(asObject(r)["Properties"]); asObject(r)["Type"] == "AWS::Lambda::Function" {
			variables := asObject(asObject(properties["Environment"])["Variables"])
			texts[properties["Handler"].(string)] = variables["QUIESCE_CONFIG_TEXT"].(string)
		}
	}
	require.Len(t, texts, 2)
	return texts
}

func parseRelease(t *testing.T, text string) config.Config {
	t.Helper()
	c, err := config.Parse([]byte(text), noEnvironment)
	require.NoError(t, err, text)
	return c
}

func TestRelease_Configuration_IsThatOfTheParameters(t *testing.T) {
	raw, _ := releasedTemplate(t)
	c := parseRelease(t, evaluate(t, raw, releasedStacks[0]).configuration(t))
	usual, err := config.Parse([]byte("{cluster: prod, autoScalingGroups: [a], mode: shadow, lifecycle: {manageHooks: true}}"), noEnvironment)
	require.NoError(t, err)
	usual.Groups = config.Groups{Tags: []config.Tag{{Key: "eks:cluster-name", Value: "prod"}, {Key: "quiesce/cluster", Value: "prod"}}}
	usual.Stack.Name = "quiesce-prod"
	require.Equal(t, usual, c, "defaults of the parameters are defaults of the configuration")

	c = parseRelease(t, evaluate(t, raw, releasedStacks[1]).configuration(t))
	require.Equal(t, config.ModeDrain, c.Mode)
	require.Equal(t, config.Keep, c.Drain.OnDeadline)
	require.Equal(t, "db", c.Phases[0].PGBouncer.Secret.Namespace)
	require.Equal(t, "batch", c.Phases[1].Name)
}

// Nothing validates the phases before the stack is made. With a mistake in them, the function that puts and removes hooks must start: it has to
// answer CloudFormation.
func TestRelease_HooksFunction_HasNoPhases(t *testing.T) {
	raw, _ := releasedTemplate(t)
	texts := evaluate(t, raw, releasedStacks[1]).configurations(t)
	c, hooks := parseRelease(t, texts["bootstrap"]), parseRelease(t, texts[config.HooksHandler])
	require.NotEqual(t, c.Phases, hooks.Phases)
	hooks.Phases = c.Phases
	require.Equal(t, c, hooks)
}

// Lambda publishes no version if nothing of the function changed, and CloudFormation fails then. So the configuration names all that the
// description of the version names.
func TestRelease_ConfigurationText_ChangesWithTheVersion(t *testing.T) {
	raw, _ := releasedTemplate(t)
	values := releasedStacks[1]
	text := evaluate(t, raw, values).configuration(t)
	for _, found := range variable.FindAllStringSubmatch(strings.Join(versioned(), ""), -1) {
		require.True(t, strings.Contains(text, values[found[1]]), found[1])
	}
}

// CAPABILITY_IAM does not allow roles with names of their own.
func TestRelease_Roles_HaveNoNames(t *testing.T) {
	roles := releasedStack(t).all("AWS::IAM::Role")
	require.Len(t, roles, 2)
	for _, role := range roles {
		require.NotContains(t, role, "RoleName")
	}
}

// A template has no arithmetic, so it has the heartbeat timeout as a number, which is the same for each duration.
func TestRelease_EachAllowedValue_IsAConfiguration(t *testing.T) {
	values := placeholderValues()
	want := parseRelease(t, fill(releaseText, values)).HeartbeatTimeout()
	for name, p := range parameters() {
		allowed, _ := asObject(p)["AllowedValues"].([]any)
		for _, value := range allowed {
			with := maps.Clone(values)
			with[name] = value.(string)
			require.Equal(t, want, parseRelease(t, fill(releaseText, with)).HeartbeatTimeout(), "%s %s", name, value)
		}
	}
}

// A change of what the function reads must publish a version: the alias would go on with the former configuration.
func TestRelease_Version_IsReplacedByEachChangeOfTheConfiguration(t *testing.T) {
	raw, s := releasedTemplate(t)
	var version object
	for _, r := range asObject(raw["Resources"]) {
		if asObject(r)["Type"] == "AWS::Lambda::Version" {
			version = asObject(r)
		}
	}
	require.Equal(t, "RetainExceptOnCreate", version["DeletionPolicy"])
	require.Equal(t, "Retain", version["UpdateReplacePolicy"])
	sum, err := digest(s.zip)
	require.NoError(t, err)
	require.Equal(t, base64.StdEncoding.EncodeToString(sum[:]), asObject(version["Properties"])["CodeSha256"], "no other zip is published")

	description := asObject(asObject(version["Properties"])["Description"])["Fn::Sub"].(string)
	changes := map[string]string{
		"ClusterName": "other", "Mode": "drain", "MaxDuration": "1h", "OnDeadline": "keep", "MaxConcurrency": "2", "ReservedConcurrency": "true",
		"AccessEntry": "true", "PhasesText": "phases:\n" + phases, "AWS::StackName": "other",
	}
	values := placeholderValues()
	before := parseRelease(t, fill(releaseText, values))
	for _, found := range variable.FindAllStringSubmatch(releaseText, -1) {
		name := found[1]
		require.Contains(t, changes, name)
		with := maps.Clone(values)
		with[name] = changes[name]
		after := parseRelease(t, fill(releaseText, with))
		after.Stack = before.Stack
		if parameter := strings.TrimSuffix(name, "Text"); !sameJSON(t, before, after) {
			require.Contains(t, description, "${"+parameter+"}")
		}
	}
	require.LessOrEqual(t, len(fill(description, map[string]string{
		"ClusterName": strings.Repeat("c", 100), "Mode": "shadow", "MaxDuration": "100m", "OnDeadline": "force",
		"Phases": strings.Repeat("p", 100) + ":123456",
	})), 256, "https://docs.aws.amazon.com/lambda/latest/api/API_PublishVersion.html")
}

func sameJSON(t *testing.T, a, b any) bool {
	t.Helper()
	one, err := json.Marshal(a)
	require.NoError(t, err)
	other, err := json.Marshal(b)
	require.NoError(t, err)
	return bytes.Equal(one, other)
}

func TestRelease_Parameters_AreDescribedAndBounded(t *testing.T) {
	raw, _ := releasedTemplate(t)
	readme := page(t, "README.md")
	for name, p := range asObject(raw["Parameters"]) {
		p := asObject(p)
		fallback := "required"
		if value, is := p["Default"].(string); is {
			fallback = strings.ReplaceAll("`"+value+"`", "``", "none")
		}
		require.True(t, strings.Contains(readme, "\n| `"+name+"` | "+fallback+" |"), "README.md: %s, default %s", name, fallback)
		require.NotEmpty(t, p["Description"], name)
		require.True(t, p["AllowedValues"] != nil || p["AllowedPattern"] != nil, name)
		if fallback, is := p["Default"].(string); is {
			requireAllowed(t, name, fallback, p)
		}
		require.NotContains(t, raw["Resources"], name, "names of a template are unique")
		require.NotContains(t, raw["Conditions"], name, "names of a template are unique")
	}
	pattern := asObject(asObject(raw["Parameters"])["ClusterName"])["AllowedPattern"].(string)
	for name, valid := range map[string]bool{"a": true, "9-a_B": true, strings.Repeat("a", 100): true, strings.Repeat("a", 101): false, "_a": false, "a.b": false} {
		require.Equal(t, valid, regexp.MustCompile(pattern).MatchString(name), name)
		_, err := config.Parse([]byte(fill(releaseText, withValue("ClusterName", name))), noEnvironment)
		require.Equal(t, valid, err == nil, name)
	}
}

func withValue(name, value string) map[string]string {
	values := placeholderValues()
	values[name] = value
	return values
}

// README.md names both limits.
func TestRelease_Sizes_FitAWS(t *testing.T) {
	raw, s := releasedTemplate(t)
	require.Less(t, len(s.text), 51200, "https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html")
	values := maps.Clone(releasedStacks[1])
	values["ClusterName"], values["AWS::StackName"] = strings.Repeat("c", 100), strings.Repeat("s", 64)
	text := evaluate(t, raw, values).configuration(t)
	const others = 400 // URLs of two queues, GOMEMLIMIT and names
	require.Less(t, len(text)-len(phases)+maxPhases+others, 4096, "https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html")
	require.True(t, strings.Contains(page(t, "README.md"), "at most 2,800 characters"))
}

// maxPhases is how long the phases of a release may be.
const maxPhases = 2800

func TestRelease_SameFiles_SameBytes(t *testing.T) {
	_, s := releasedTemplate(t)
	again, err := s.template(s.variants)
	require.NoError(t, err)
	require.Equal(t, string(s.text), string(again))
	require.NotContains(t, string(s.text), filepath.Dir(s.zip))
}
