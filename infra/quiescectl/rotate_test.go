package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/rotate"
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

// An API server that has nothing but the record: whatever else is asked fails.
func TestRotate_BackIsRepeatedAfterItsEnd_SaysThatItIsDone(t *testing.T) {
	record := rotate.Record{From: "a_green", To: "a_blue", Back: true, Step: rotate.Closed}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/api/v1/namespaces/db/secrets/list" {
			http.Error(w, "unexpected", http.StatusTeapot)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		assert.NoError(t, json.NewEncoder(w).Encode(corev1.Secret{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
			ObjectMeta: metav1.ObjectMeta{Namespace: "db", Name: "list", Annotations: map[string]string{rotate.Annotation: record.Text()}},
		}))
	}))
	defer server.Close()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	config := fmt.Sprintf("{clusters: [{name: c, cluster: {server: %q}}], contexts: [{name: c, context: {cluster: c}}], current-context: c}", server.URL)
	require.NoError(t, os.WriteFile(path, []byte(config), 0o600))
	status, said := rotateCommand(t, append([]string{"--kubeconfig", path, "--back", "--admin", "--app-secret", "db/app"}, required...)...)
	require.Zero(t, status, said)
	require.Contains(t, said, "the rotation to a_green is undone already")
	require.Contains(t, said, "a_blue is in use, a_green is closed")
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
