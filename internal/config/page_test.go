package config

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sections has the prefix of the keys that each function of this package reads.
var sections = map[string]string{
	"Config.read": "", "Lifecycle.read": "lifecycle.", "Drain.read": "drain.", "Drain.compare": "drain.", "readPhases": "phases[].",
	"Phase.read": "phases[].", "Match.read": "phases[].match.", "Phase.readEscort": "phases[].escort.",
	"Groups.read": "autoScalingGroups[].", "PGBouncer.read": "phases[].escort.pgbouncer.", "Postgres.read": "phases[].escort.postgres.",
	// The rows of consoles say that both escorts have these keys.
	"Console.read": "phases[].escort.pgbouncer.", "Console.readTLS": "phases[].escort.pgbouncer.",
	"readSecretRef": "phases[].escort.pgbouncer.secretRef.", "Stack.read": "stack.", "Stack.readVPC": "stack.vpc.",
}

// TestPage_EveryKey_HasARow finds the keys in the source, because the package has no list of them.
func TestPage_EveryKey_HasARow(t *testing.T) {
	rows := rowsOf(t)
	keys := keysInSource(t)
	require.Contains(t, keys, "drain.completionReserve")
	for _, key := range keys {
		if slices.ContainsFunc(keys, func(other string) bool { return isWithin(other, key) }) {
			continue // a section: its keys have rows
		}
		require.Contains(t, rows, key)
	}
	for row := range rows {
		if first, _, _ := strings.Cut(row, "."); slices.Contains(keys, strings.TrimSuffix(first, "[]")) {
			require.Contains(t, keys, row, "a row of an unknown key")
		}
	}
}

func isWithin(key, section string) bool {
	return strings.HasPrefix(key, section+".") || strings.HasPrefix(key, section+"[].")
}

func TestPage_EveryEnvironmentVariable_HasARow(t *testing.T) {
	rows, variable := rowsOf(t), regexp.MustCompile(`"((?:QUIESCE|CLUSTER|LAMBDA)_[A-Z_]+)"`)
	found := 0
	for _, source := range sources(t) {
		text, err := os.ReadFile(source)
		require.NoError(t, err)
		for _, match := range variable.FindAllStringSubmatch(string(text), -1) {
			require.Contains(t, rows, match[1])
			found++
		}
	}
	require.Positive(t, found)
}

// rowsOf returns the first cells of the tables in CONFIGURATION.md that are code.
func rowsOf(t *testing.T) map[string]bool {
	t.Helper()
	page, err := os.ReadFile("../../infra/CONFIGURATION.md")
	require.NoError(t, err)
	rows := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		rows[row[1]] = true
	}
	return rows
}

// sources returns the Go files of this package, without tests.
func sources(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	return slices.DeleteFunc(files, func(file string) bool { return strings.HasSuffix(file, "_test.go") })
}

// keysInSource returns the dotted path of each key that a function gets from its mapping.
func keysInSource(t *testing.T) (keys []string) {
	t.Helper()
	for _, source := range sources(t) {
		file, err := parser.ParseFile(token.NewFileSet(), source, nil, 0)
		require.NoError(t, err)
		for _, declaration := range file.Decls {
			function, is := declaration.(*ast.FuncDecl)
			if !is {
				continue
			}
			for _, key := range keysIn(function) {
				prefix, known := sections[nameOf(function)]
				require.True(t, known, "%s reads %s: add it to sections", nameOf(function), key)
				keys = append(keys, prefix+key)
			}
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// keysIn returns the literals that a function passes to get.
func keysIn(function *ast.FuncDecl) (keys []string) {
	ast.Inspect(function, func(node ast.Node) bool {
		call, is := node.(*ast.CallExpr)
		if !is || len(call.Args) != 1 {
			return true
		}
		method, is := call.Fun.(*ast.SelectorExpr)
		literal, text := call.Args[0].(*ast.BasicLit)
		if is && text && method.Sel.Name == "get" {
			key, _ := strconv.Unquote(literal.Value)
			keys = append(keys, key)
		}
		return true
	})
	return keys
}

func nameOf(function *ast.FuncDecl) string {
	if function.Recv == nil {
		return function.Name.Name
	}
	receiver := function.Recv.List[0].Type
	if pointer, is := receiver.(*ast.StarExpr); is {
		receiver = pointer.X
	}
	return fmt.Sprintf("%s.%s", receiver, function.Name.Name)
}
