package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(text)
}

func TestReadme_EveryFlag_HasARowWithItsDefault(t *testing.T) {
	flags := page(t, "README.md")
	new(options).flags().VisitAll(func(f *flag.Flag) {
		row := regexp.MustCompile("(?m)^\\|[^|]*`--" + f.Name + "`[^|]*\\|([^|]*)\\|").FindStringSubmatch(flags)
		require.NotEmpty(t, row, f.Name)
		if value := f.DefValue; value != "" && value != "0" && value != "false" {
			require.Equal(t, "`"+value+"`", strings.TrimSpace(row[1]), f.Name)
		}
	})
}

func TestReadme_QuotedMessages_AreTheProgramsOwn(t *testing.T) {
	quoted := regexp.MustCompile(`msg="([^"]+)"`).FindAllStringSubmatch(page(t, "README.md"), -1)
	require.NotEmpty(t, quoted)
	source := page(t, "hook.go") + page(t, "main.go")
	for _, message := range quoted {
		require.Contains(t, source, `"`+message[1]+`"`)
	}
	rows := regexp.MustCompile("(?m)^\\| `([^`(]+)").FindAllStringSubmatch(page(t, "README.md"), -1)
	found := 0
	for _, row := range rows {
		if strings.Contains(source, `"`+row[1]) {
			found++
		}
	}
	require.Equal(t, 5, found, "messages that ask for something")
}

// A hook with a grace period that is not the pod's would announce what is cut at the wrong time.
func TestManifests_GraceOfTheHook_IsThePods(t *testing.T) {
	for _, name := range []string{"pgbouncer.yaml", "README.md"} {
		text := page(t, name)
		grace := regexp.MustCompile(`terminationGracePeriodSeconds: (\d+)`).FindStringSubmatch(text)
		hook := regexp.MustCompile(`command: \[/prestop/prestop, pgbouncer, ([^\]]*)\]`).FindStringSubmatch(text)
		require.NotEmpty(t, grace, name)
		require.NotEmpty(t, hook, name)
		o, err := readOptions(strings.Split(hook[1], ", "))
		require.NoError(t, err)
		require.Equal(t, grace[1], fmt.Sprint(o.grace.Seconds()), name)
	}
}
