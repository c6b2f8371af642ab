package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func resources(properties object, more ...object) object {
	all := object{"One": object{"Type": "A", "Properties": properties}}
	for _, extra := range more {
		for id, r := range extra {
			all[id] = r
		}
	}
	return object{"Resources": all}
}

func TestMergeTemplates_WhatDiffers_HasACondition(t *testing.T) {
	merged, err := mergeTemplates("On", "Off",
		resources(object{"Same": 1.0, "Differs": "a", "Only": "a", "Deep": object{"X": "a", "Y": "y"}, "Computed": ref("A")}, object{"Extra": object{"Type": "B"}}),
		resources(object{"Same": 1.0, "Differs": "b", "Deep": object{"X": "b", "Y": "y"}, "Computed": ref("B")}, object{"Other": object{"Type": "C"}}),
	)
	require.NoError(t, err)
	either := func(a, b any) object { return object{"Fn::If": []any{"On", a, b}} }
	require.Equal(t, resources(object{
		"Same": 1.0, "Differs": either("a", "b"), "Only": either("a", absent), "Deep": object{"X": either("a", "b"), "Y": "y"},
		"Computed": either(ref("A"), ref("B")),
	}, object{"Extra": object{"Type": "B", "Condition": "On"}, "Other": object{"Type": "C", "Condition": "Off"}}), merged)
}

func TestMergeTemplates_Dependencies_AreAllOfThem(t *testing.T) {
	with := func(ids ...any) object {
		return object{"Resources": object{"One": object{"Type": "A", "DependsOn": ids}}}
	}
	merged, err := mergeTemplates("On", "Off", with("B", "A"), with("C", "A"))
	require.NoError(t, err)
	require.Equal(t, with("A", "B", "C"), merged)
}

func TestMergeTemplates_WhatCannotBeConditional_IsAnError(t *testing.T) {
	one := resources(object{})
	for want, other := range map[string]object{
		"section Mappings differs": {"Resources": one["Resources"], "Mappings": object{}},
		"One: Type differs":        {"Resources": object{"One": object{"Type": "B", "Properties": object{}}}},
		"Two depends on two switches": resources(object{}, object{
			"Two": object{"Type": "B", "Condition": "Earlier"},
		}),
	} {
		_, err := mergeTemplates("On", "Off", one, other)
		require.ErrorContains(t, err, want)
	}
}

func TestSubstitutions_Placeholder_BecomesItsParameter(t *testing.T) {
	s := substitutions{"ParameterName": ref("Name"), "971": ref("Count"), "976": lookUp("Count", "More")}
	for _, c := range []struct{ from, to any }{
		{"ParameterName", ref("Name")},
		{"a-ParameterName/b", object{"Fn::Sub": "a-${Name}/b"}},
		{"a ${b} ParameterName", object{"Fn::Sub": "a ${!b} ${Name}"}},
		{"a ${b}", "a ${b}"},
		{"put 976 at ParameterName", object{"Fn::Sub": []any{"put ${More} at ${Name}", object{"More": lookUp("Count", "More")}}}},
		{"971a9712", "971a9712"}, // a hash
		{971.0, ref("Count")},
		{972.0, 972.0},
		{[]any{object{"A": "ParameterName"}, true}, []any{object{"A": ref("Name")}, true}},
	} {
		require.Equal(t, c.to, s.apply(c.from), "%v", c.from)
	}
}

func TestSubstitutions_PlaceholderWhereNoParameterCanBe_IsAnError(t *testing.T) {
	s := substitutions{"ParameterName": ref("Name")}
	for _, t2 := range []object{
		{"Resources": object{"A": object{"Properties": object{"ParameterName": "key"}}}},
		{"Resources": object{"ParameterName": object{}}},
		{"Resources": object{"A": object{"DependsOn": []any{"ParameterOther"}}}},
		{"Outputs": object{"A": object{"Value": "x", "Description": "of ParameterName"}}},
	} {
		_, err := s.template(t2)
		require.ErrorContains(t, err, "a placeholder where no parameter can be")
	}
}
