package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/stretchr/testify/require"
	"github.com/zclconf/go-cty/cty"
)

// moduleBlocks returns all blocks of the Terraform module, by their type and labels: "variable mode".
func moduleBlocks(t *testing.T) map[string]*hclsyntax.Body {
	t.Helper()
	files, err := filepath.Glob("terraform/*.tf")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	blocks := map[string]*hclsyntax.Body{}
	for _, path := range files {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		file, found := hclsyntax.ParseConfig(text, path, hcl.InitialPos)
		require.False(t, found.HasErrors(), found.Error())
		for _, block := range file.Body.(*hclsyntax.Body).Blocks {
			name := strings.Join(append([]string{block.Type}, block.Labels...), " ")
			require.NotContains(t, blocks, name)
			blocks[name] = block.Body
		}
	}
	return blocks
}

func TestTerraform_Module_IsFormatted(t *testing.T) {
	files, err := filepath.Glob("terraform/*.tf")
	require.NoError(t, err)
	for _, path := range files {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(hclwrite.Format(text)), string(text), path)
	}
}

// textOf returns the value of an attribute as Terraform converts it to a text.
func textOf(t *testing.T, attribute *hclsyntax.Attribute) string {
	t.Helper()
	value, found := attribute.Expr.Value(nil)
	require.False(t, found.HasErrors(), found.Error())
	if value.Type() == cty.Bool {
		if value.True() {
			return "true"
		}
		return "false"
	}
	return value.AsString()
}

// allowedIn returns the values that the validation of a variable allows: contains([...], var.name).
func allowedIn(t *testing.T, variable *hclsyntax.Body) (values []any) {
	t.Helper()
	for _, block := range variable.Blocks {
		call, is := block.Body.Attributes["condition"].Expr.(*hclsyntax.FunctionCallExpr)
		if !is {
			continue
		}
		require.Equal(t, "contains", call.Name)
		list, found := call.Args[0].Value(nil)
		require.False(t, found.HasErrors(), found.Error())
		for _, value := range list.AsValueSlice() {
			values = append(values, value.AsString())
		}
	}
	return values
}

// notParameters are the variables of the module's own.
var notParameters = []string{"stack_name", "upload_code"}

func TestTerraform_Variables_AreTheParametersOfTheTemplate(t *testing.T) {
	blocks := moduleBlocks(t)
	wanted := slices.Clone(notParameters)
	for name, raw := range parameters() {
		p, variable := asObject(raw), variableOf(name)
		wanted = append(wanted, variable)
		require.Contains(t, blocks, "variable "+variable)
		body := blocks["variable "+variable]
		fallback, has := p["Default"].(string)
		require.Equal(t, has, body.Attributes["default"] != nil, variable)
		if has {
			require.Equal(t, fallback, textOf(t, body.Attributes["default"]), variable)
		}
		if kind := hcl.ExprAsKeyword(body.Attributes["type"].Expr); kind == "bool" {
			require.Equal(t, list("true", "false"), p["AllowedValues"], variable)
		} else if p["AllowedValues"] != nil {
			require.Equal(t, "string", kind, variable)
			require.Equal(t, p["AllowedValues"], allowedIn(t, body), variable)
		}
		if variable != "phases" && variable != "code_bucket" { // where the module does more than to pass the value on
			require.Equal(t, p["Description"], textOf(t, body.Attributes["description"]), variable)
		}
	}
	require.ElementsMatch(t, wanted, labels(blocks, "variable "))
}

// variableOf returns the variable of a parameter: ClusterName is cluster_name.
func variableOf(parameter string) string {
	return strings.ToLower(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(parameter, "${1}_${2}"))
}

func labels(blocks map[string]*hclsyntax.Body, prefix string) (names []string) {
	for name := range blocks {
		if label, is := strings.CutPrefix(name, prefix); is {
			names = append(names, label)
		}
	}
	return names
}

// A stack whose update fails returns to what it had before. CloudFormation sees a change only if another text has another name or version.
func TestTerraform_WhatTheStackReads_IsReplacedAfterTheUpdate(t *testing.T) {
	blocks := moduleBlocks(t)
	for _, resource := range []string{"resource aws_s3_object code", "resource aws_ssm_parameter phases"} {
		var lifecycle *hclsyntax.Body
		for _, block := range blocks[resource].Blocks {
			if block.Type == "lifecycle" {
				lifecycle = block.Body
			}
		}
		require.NotNil(t, lifecycle, resource)
		require.Equal(t, "true", textOf(t, lifecycle.Attributes["create_before_destroy"]), resource)
	}
	var called []string
	found := hclsyntax.VisitAll(blocks["resource aws_ssm_parameter phases"].Attributes["name"].Expr, func(node hclsyntax.Node) hcl.Diagnostics {
		if call, is := node.(*hclsyntax.FunctionCallExpr); is {
			called = append(called, call.Name)
		}
		return nil
	})
	require.False(t, found.HasErrors(), found.Error())
	require.Contains(t, called, "sha256")
}

func TestTerraform_Stack_GetsEachParameterFromItsVariable(t *testing.T) {
	stack := moduleBlocks(t)["resource aws_cloudformation_stack quiesce"]
	passed := stack.Attributes["parameters"].Expr.(*hclsyntax.ObjectConsExpr)
	var names []string
	for _, item := range passed.Items {
		name := hcl.ExprAsKeyword(item.KeyExpr)
		names = append(names, name)
		var from []string
		for _, traversal := range item.ValueExpr.Variables() {
			if traversal.RootName() == "var" {
				from = append(from, traversal[1].(hcl.TraverseAttr).Name)
			}
		}
		require.Equal(t, []string{variableOf(name)}, from, name)
	}
	require.ElementsMatch(t, sortedKeys(parameters()), names)
	capabilities, found := stack.Attributes["capabilities"].Expr.Value(nil)
	require.False(t, found.HasErrors(), found.Error())
	require.Equal(t, "CAPABILITY_IAM", capabilities.AsValueSlice()[0].AsString())
}

// The second stack replaced the first one.
func TestTerraform_StackNameNotOfOneCluster_MustBeSet(t *testing.T) {
	stack := moduleBlocks(t)["resource aws_cloudformation_stack quiesce"]
	require.Len(t, stack.Blocks, 1)
	condition := stack.Blocks[0].Body.Blocks[0].Body.Attributes["condition"].Expr
	long := strings.Repeat("a", 57)
	for _, c := range []struct {
		cluster, set, name string
		want               bool
	}{
		{"prod-eu", "", "quiesce-prod-eu", true},
		{"prod_eu", "", "quiesce-prod-eu", false},
		{"prod_eu", "quiesce-prod-eu", "quiesce-prod-eu", true},
		{long, "", "quiesce-" + long[1:], false},
	} {
		allowed, found := condition.Value(&hcl.EvalContext{Variables: map[string]cty.Value{
			"var":   cty.ObjectVal(map[string]cty.Value{"cluster_name": cty.StringVal(c.cluster), "stack_name": cty.StringVal(c.set)}),
			"local": cty.ObjectVal(map[string]cty.Value{"stack_name": cty.StringVal(c.name)}),
		}})
		require.False(t, found.HasErrors(), found.Error())
		require.Equal(t, c.want, allowed.True(), "%+v", c)
	}
}

// Every reference of the module is to something that it has.
func TestTerraform_References_AreDeclared(t *testing.T) {
	blocks := moduleBlocks(t)
	locals := blocks["locals"]
	checked := 0
	for name, body := range blocks {
		if strings.HasPrefix(name, "variable ") || strings.HasPrefix(name, "terraform") {
			continue
		}
		for _, attribute := range body.Attributes {
			for _, traversal := range attribute.Expr.Variables() {
				second := traversal[1].(hcl.TraverseAttr).Name
				switch root := traversal.RootName(); root {
				case "var":
					require.Contains(t, blocks, "variable "+second, name)
				case "local":
					require.Contains(t, locals.Attributes, second, name)
				case "path":
					require.Equal(t, "module", second)
				default:
					require.Contains(t, blocks, "resource "+root+" "+second, name)
				}
				checked++
			}
		}
	}
	require.Greater(t, checked, 15)
}
