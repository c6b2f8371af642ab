package config_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
)

func TestParse_GroupsByTag_MatchByNameGlobOrTag(t *testing.T) {
	groups := parse(t, `
cluster: prod
mode: drain
autoScalingGroups: [workers-a, "batch-*", {tag: "k8s.io/cluster/prod=owned"}, {tag: "team=a=b"}, {tag: "empty="}]
lifecycle: {manageHooks: true}
`).Groups
	require.Equal(t, []config.Tag{{"k8s.io/cluster/prod", "owned"}, {"team", "a=b"}, {"empty", ""}}, groups.Tags)
	for name, tags := range map[string]map[string]string{
		"workers-a": nil, "batch-7": nil, "eks-workers-1": {"k8s.io/cluster/prod": "owned"}, "b": {"team": "a=b"}, "c": {"empty": ""},
	} {
		require.True(t, groups.Match(name, tags), name)
	}
	for name, tags := range map[string]map[string]string{
		"workers-b": nil, "eks-workers-1": {"k8s.io/cluster/prod": "shared"}, "eks-workers-2": {"k8s.io/cluster/test": "owned"}, "d": {"team": ""},
	} {
		require.False(t, groups.Match(name, tags), name)
	}
}

// A sweep describes only these groups if there can be no others.
func TestListed_GlobOrTag_None(t *testing.T) {
	const file = "{cluster: prod, mode: drain, autoScalingGroups: "
	require.Equal(t, []string{"workers-a", "workers-b"}, parse(t, file+"[workers-a, workers-b]}").Groups.Listed())
	require.Nil(t, parse(t, file+`[workers-a, "batch-*"]}`).Groups.Listed())
	require.Nil(t, parse(t, file+`[workers-a, {tag: "a=b"}]}`).Groups.Listed())
}

// A tag becomes a condition of an IAM policy, where a dollar sign begins a variable and quotation marks end a text.
func TestParse_BadTag_NamesTheItem(t *testing.T) {
	for item, want := range map[string]string{
		`{tag: "team"}`:              `autoScalingGroups[0].tag: not a tag such as team=payments: "team"`,
		`{tag: "=a"}`:                "autoScalingGroups[0].tag: not a tag",
		`{tag: "a=${aws:username}"}`: "autoScalingGroups[0].tag: not a tag",
		`{tag: 'a"=b'}`:              "autoScalingGroups[0].tag: not a tag",
		`{tag: "a=b*"}`:              "autoScalingGroups[0].tag: not a tag",
		`{tag: "` + strings.Repeat("k", 129) + `=b"}`: "autoScalingGroups[0].tag: not a tag",
		`{tag: [a]}`:                 "autoScalingGroups[0].tag: must be a string",
		`{}`:                         "autoScalingGroups[0].tag: required",
		`{tag: "a=b", name: c}`:      "autoScalingGroups[0].name: unknown key",
		`{tag: "a=b"}, {tag: "a=b"}`: "autoScalingGroups[1].tag: duplicate: a=b",
		`workers-a, workers-a`:       "autoScalingGroups[1]: duplicate: workers-a",
	} {
		_, err := config.Parse([]byte(`{cluster: prod, mode: drain, autoScalingGroups: [`+item+`]}`), environment(nil))
		require.ErrorContains(t, err, want, item)
	}
}

func TestGroupName_FirstAndLastSigns_AreAccepted(t *testing.T) {
	longest := strings.Repeat("a", 255)
	names := parse(t, `{cluster: prod, mode: drain, autoScalingGroups: ["a ~", "`+longest+`"]}`).Groups.Names
	require.Equal(t, config.Globs{"a ~", longest}, names)
}
