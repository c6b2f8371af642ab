package internal

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

const runbook = "../infra/RUNBOOK.md"

var backquoted = regexp.MustCompile("`([^`]+)`")

func TestRunbook_LogMessages_AllListed(t *testing.T) {
	logged := map[string]bool{}
	for _, dir := range append(packageDirs(t), "../lambda") {
		code := parse(t, dir)
		for _, message := range code.messages(t) {
			logged[message] = true
		}
	}
	listed := map[string]bool{}
	for line := range strings.Lines(sectionOf(t, runbook, "## Log messages")) {
		if cells := strings.Split(line, "|"); len(cells) > 1 {
			for _, message := range backquoted.FindAllStringSubmatch(cells[1], -1) {
				require.False(t, listed[message[1]], "%s lists %q twice", runbook, message[1])
				listed[message[1]] = true
			}
		}
	}
	require.Equal(t, slices.Sorted(maps.Keys(logged)), slices.Sorted(maps.Keys(listed)),
		"messages that the code logs (expected), and those of the table of %s (actual)", runbook)
}

func TestRunbook_ReportFields_AllListed(t *testing.T) {
	listed := map[string]bool{}
	for _, name := range backquoted.FindAllStringSubmatch(sectionOf(t, runbook, "## Reports"), -1) {
		listed[name[1]] = true
		for part := range strings.SplitSeq(name[1], ".") { // deadline.availableSeconds
			listed[strings.TrimSuffix(part, "[]")] = true // pods[]
		}
	}
	for _, report := range []any{
		termination.Report{}, termination.PlanReport{}, termination.DeadlineReport{}, termination.SweepReport{},
		termination.RetainedInstance{}, termination.CheckReport{}, termination.CheckStep{}, termination.ScheduledChange{},
		drain.Report{}, drain.PhaseReport{}, drain.PodReport{}, drain.EscortResult{}, drain.PDB{},
	} {
		for _, field := range jsonFields(reflect.TypeOf(report)) {
			require.True(t, listed[field], "%s does not list the field %s of %T", runbook, field, report)
		}
	}
	for typeName, dir := range map[string]string{"Status": "termination", "Result": "termination", "Outcome": "drain", "Verdict": "drain"} {
		for _, value := range constants(t, dir, typeName) {
			require.True(t, listed[value], "%s does not list the %s %s", runbook, typeName, value)
		}
	}
}

// sectionOf returns a page's text from a heading of the second level to the next one.
func sectionOf(t *testing.T, page, heading string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	_, section, found := strings.Cut(string(text), "\n"+heading+"\n")
	require.True(t, found, "%s has no heading %s", page, heading)
	section, _, _ = strings.Cut(section, "\n## ")
	return section
}

// jsonFields returns the names that a report's own fields have in JSON. Embedded structs are reports of their own.
func jsonFields(report reflect.Type) (names []string) {
	for field := range report.Fields() {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// constants returns the values of a package's string constants of one type.
func constants(t *testing.T, dir, typeName string) (values []string) {
	t.Helper()
	code := parse(t, dir)
	code.inspect(func(n ast.Node) {
		spec, is := n.(*ast.ValueSpec)
		if !is {
			return
		}
		if named, is := spec.Type.(*ast.Ident); !is || named.Name != typeName {
			return
		}
		for _, expression := range spec.Values {
			if value, is := stringOf(expression); is {
				values = append(values, value)
			}
		}
	})
	require.NotEmpty(t, values, "%s has no constants of type %s", dir, typeName)
	return values
}

// packageDirs returns the folders of our packages in internal.
func packageDirs(t *testing.T) (dirs []string) {
	t.Helper()
	entries, err := os.ReadDir(".")
	require.NoError(t, err)
	for _, entry := range entries {
		if entry.IsDir() {
			dirs = append(dirs, entry.Name())
		}
	}
	require.NotEmpty(t, dirs)
	return dirs
}

// source is the parsed code of a package, without its tests.
type source struct {
	files     []*ast.File
	positions *token.FileSet
}

func parse(t *testing.T, dir string) source {
	t.Helper()
	code := source{positions: token.NewFileSet()}
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(code.positions, name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		code.files = append(code.files, file)
	}
	require.NotEmpty(t, code.files, "%s has no code", dir)
	return code
}

func (s source) inspect(visit func(ast.Node)) {
	for _, file := range s.files {
		ast.Inspect(file, func(n ast.Node) bool { visit(n); return true })
	}
}

// functions calls visit for each function that has a body.
func (s source) functions(visit func(*ast.FuncDecl)) {
	s.inspect(func(n ast.Node) {
		if function, is := n.(*ast.FuncDecl); is && function.Body != nil {
			visit(function)
		}
	})
}

// messages returns the messages that a package logs.
func (s source) messages(t *testing.T) (found []string) {
	t.Helper()
	s.functions(func(function *ast.FuncDecl) {
		ast.Inspect(function.Body, func(n ast.Node) bool {
			if call, is := n.(*ast.CallExpr); is {
				if at, logs := messageIndex(call); logs {
					texts, err := s.texts(call.Args[at], function)
					require.NoError(t, err, "%s: the log message", s.positions.Position(call.Pos()))
					found = append(found, texts...)
				}
			}
			return true
		})
	})
	return found
}

// messageIndex returns which argument of a call is a log message. The call is a method of slog's Logger, or of its package.
func messageIndex(call *ast.CallExpr) (index int, logs bool) {
	method, is := call.Fun.(*ast.SelectorExpr)
	if !is || !isLogger(method.X) {
		return 0, false
	}
	index, logs = map[string]int{
		"Debug": 0, "Info": 0, "Warn": 0, "Error": 0,
		"DebugContext": 1, "InfoContext": 1, "WarnContext": 1, "ErrorContext": 1,
		"Log": 2, "LogAttrs": 2,
	}[method.Sel.Name]
	return index, logs && len(call.Args) > index
}

// isLogger reports whether an expression is named like a logger: log, j.log, r.Log, slog, or what With of one of these returns.
func isLogger(expression ast.Expr) bool {
	switch e := expression.(type) {
	case *ast.Ident:
		return e.Name == "slog" || strings.EqualFold(e.Name, "log") || strings.EqualFold(e.Name, "logger")
	case *ast.SelectorExpr:
		return isLogger(e.Sel)
	case *ast.CallExpr:
		method, is := e.Fun.(*ast.SelectorExpr)
		return is && isLogger(method.X)
	}
	return false
}

// texts returns every value that a message can have: of a literal, of what callers pass as a parameter of function, or of what a
// function of the package returns.
func (s source) texts(message ast.Expr, function *ast.FuncDecl) ([]string, error) {
	if text, is := stringOf(message); is {
		return []string{text}, nil
	}
	switch e := message.(type) {
	case *ast.Ident:
		if index, is := parameterIndex(function, e.Name); is {
			return s.passed(function.Name.Name, index)
		}
	case *ast.CallExpr:
		if name := calledName(e); name != "" {
			return s.returned(name)
		}
	}
	return nil, fmt.Errorf("is no literal, no parameter of %s and no function of the package", function.Name.Name)
}

// passed returns what all callers of a function pass as one of its arguments.
func (s source) passed(name string, index int) (found []string, err error) {
	s.functions(func(caller *ast.FuncDecl) {
		ast.Inspect(caller.Body, func(n ast.Node) bool {
			if call, is := n.(*ast.CallExpr); is && err == nil && calledName(call) == name && len(call.Args) > index {
				var texts []string
				texts, err = s.texts(call.Args[index], caller)
				found = append(found, texts...)
			}
			return true
		})
	})
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("has no value: no call of %s", name)
	}
	return found, err
}

// returned returns what the functions of this name return first.
func (s source) returned(name string) (found []string, err error) {
	s.functions(func(function *ast.FuncDecl) {
		if function.Name.Name != name {
			return
		}
		ast.Inspect(function.Body, func(n ast.Node) bool {
			if result, is := n.(*ast.ReturnStmt); is && err == nil && len(result.Results) > 0 {
				var texts []string
				texts, err = s.texts(result.Results[0], function)
				found = append(found, texts...)
			}
			return true
		})
	})
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("has no value: no function %s in the package", name)
	}
	return found, err
}

func stringOf(expression ast.Expr) (string, bool) {
	literal, is := expression.(*ast.BasicLit)
	if !is || literal.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(literal.Value)
	return text, err == nil
}

// calledName returns the name of the function or method that is called.
func calledName(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

func parameterIndex(function *ast.FuncDecl, name string) (index int, is bool) {
	for _, field := range function.Type.Params.List {
		for _, parameter := range field.Names {
			if parameter.Name == name {
				return index, true
			}
			index++
		}
	}
	return 0, false
}
