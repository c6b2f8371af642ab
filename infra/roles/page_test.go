package main

import (
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

func TestReadme_Examples_AreFilesOfThisProgram(t *testing.T) {
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(readText(t, "README.md"), -1)
	require.Len(t, examples, 2)
	for _, example := range examples {
		parsed(t, example[1])
	}
}

func TestReadme_KeysVariablesFlagsAndNames_AllThere(t *testing.T) {
	page := readText(t, "README.md")
	for _, name := range regexp.MustCompile(`"((?:POSTGRES|PG)[A-Z_]+)"`).FindAllStringSubmatch(readText(t, "connect.go")+readText(t, "main.go"), -1) {
		require.Contains(t, page, "`"+name[1]+"`")
		require.True(t, strings.Contains(usage, name[1]) || strings.HasPrefix(name[1], "PG"), "usage lacks %s", name[1])
	}
	for _, key := range regexp.MustCompile(`yaml:"(\w+)"`).FindAllStringSubmatch(readText(t, "declaration.go"), -1) {
		require.Contains(t, page, key[1]+":")
	}
	for _, flag := range regexp.MustCompile(`Var\(&o\.\w+, "([\w-]+)"`).FindAllStringSubmatch(readText(t, "main.go"), -1) {
		require.Contains(t, page, "-"+flag[1])
	}
	for _, names := range []map[string][]string{operatorRoles, commonNames} {
		for _, list := range names {
			for _, name := range list {
				require.Contains(t, page, "`"+name+"`")
			}
		}
	}
	require.Contains(t, page, "IS '"+mark+"'")
}

// The manifest is a template that people copy: its roles must be read, and what it says of the Secret must be what the program reads.
func TestJob_Manifest_FitsTheProgram(t *testing.T) {
	text := readText(t, "../roles-job.yaml")
	decoder := yaml.NewDecoder(strings.NewReader(text))
	var manifests []map[string]any
	for {
		var one map[string]any
		err := decoder.Decode(&one)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		manifests = append(manifests, one)
	}
	require.Len(t, manifests, 2)
	d := parsed(t, manifests[0]["data"].(map[string]any)["roles.yaml"].(string))
	for _, r := range d.Roles {
		if r.PasswordFrom.Env != "" {
			require.Contains(t, text, "--from-literal="+r.PasswordFrom.Env+"=")
		}
	}
	pod := manifests[1]["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
	args := pod["containers"].([]any)[0].(map[string]any)["args"].([]any)
	var given []string
	for _, a := range args {
		given = append(given, a.(string))
	}
	o, err := readOptions(given, nil)
	require.NoError(t, err)
	require.Equal(t, up, o.action)
	require.Equal(t, "/etc/roles/roles.yaml", o.file)
}
