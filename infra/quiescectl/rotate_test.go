package main

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// rotateCommand runs rotate with these flags, and returns what it said.
func rotateCommand(t *testing.T, args ...string) (status int, said string) {
	t.Helper()
	t.Setenv("KUBECONFIG", "/nonexistent")
	var out, progress bytes.Buffer
	status = run(t.Context(), append([]string{"rotate"}, args...), &out, &progress)
	return status, out.String() + progress.String()
}

var required = []string{"--logins", "a_blue,a_green", "--userlist", "db/list", "--console-secret", "db/admin"}

func TestRotate_Flags_ErrorNamesTheNextStep(t *testing.T) {
	t.Setenv("SHORT", "pass word")
	for says, args := range map[string][]string{
		`required flag(s) "console-secret"`: {"--logins", "a,b", "--userlist", "db/list"},
		"--logins must be two names":        {"--logins", "a,a", "--userlist", "db/list", "--console-secret", "db/admin"},
		"--to must be one of --logins":      append([]string{"--to", "c"}, required...),
		"--group is missing":                required,
		"give one of 16 to 99":              append([]string{"--password-env", "SHORT", "--group", "a"}, required...),
		"--password-file: open":             append([]string{"--password-file", "/nonexistent", "--group", "a"}, required...),
		"--dsn: ":                           append([]string{"--dsn", "postgres://u:hidden@h:p/", "--group", "a"}, required...),
		"[back to]":                         append([]string{"--back", "--to", "a_blue"}, required...),
		"read the kubeconfig":               append([]string{"--group", "a"}, required...),
		"--console-tls must be":             append([]string{"--console-tls", "verify", "--group", "a"}, required...),
		"belong together":                   append([]string{"--console-tls", "verify-full", "--group", "a"}, required...),
		"has no certificates": append([]string{
			"--console-tls", "verify-full", "--console-server-name", "p", "--console-ca-file", "README.md", "--group", "a",
		}, required...),
		`--userlist must be namespace/name`: append([]string{"--userlist", "list", "--group", "a"}, required...),
	} {
		t.Run(says, func(t *testing.T) {
			status, said := rotateCommand(t, args...)
			require.Equal(t, exitError, status)
			require.Contains(t, said, says)
			require.NotContains(t, said, "pass word")
			require.NotContains(t, said, "hidden")
		})
	}
}

// The page names no flag that does not exist.
func TestPage_FlagsOfRotate_Exist(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(text), "\n## Rotate a password\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	command := newRotate(&options{})
	names := regexp.MustCompile("`(?:[^`]* )?--([a-z-]+)|[ (`]--([a-z][a-z-]+)").FindAllStringSubmatch(section, -1)
	require.Greater(t, len(names), 10)
	for _, name := range names {
		require.NotNil(t, command.Flags().Lookup(name[1]+name[2]), name[0])
	}
}
