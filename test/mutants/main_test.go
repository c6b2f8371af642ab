package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// reportOf returns a report as gremlins writes it, with changes of these states.
func reportOf(t *testing.T, states ...string) (r report) {
	t.Helper()
	var mutations []string
	for n, state := range states {
		mutations = append(mutations, fmt.Sprintf(`{"type":"CONDITIONALS_BOUNDARY","status":%q,"line":%d,"column":7}`, state, n+1))
	}
	text := `{"test_efficacy":1,"files":[{"file_name":"a.go","mutations":[` + strings.Join(mutations, ",") + `]}]}`
	require.NoError(t, json.Unmarshal([]byte(text), &r))
	return r
}

func TestReport_Changes_AreCountedAndNamed(t *testing.T) {
	r := reportOf(t, "KILLED", "LIVED", "NOT COVERED", "TIMED OUT", "NOT VIABLE")
	require.Equal(t, "internal/a: 2 of 3 changes noticed, 1 of them at the timeout\n  not noticed: internal/a/a.go:2:7 conditionals_boundary\n", r.text("internal/a"))
	require.ErrorContains(t, r.check("internal/a"), "internal/a: 2 of 3 changes noticed, less than 97 %")
}

func TestCheck_PartOfChanges_Decides(t *testing.T) {
	killed := slices.Repeat([]string{"KILLED"}, 97)
	require.NoError(t, reportOf(t, append(killed, "LIVED", "LIVED", "LIVED")...).check("a"))
	require.Error(t, reportOf(t, append(killed, "LIVED", "LIVED", "LIVED", "LIVED")...).check("a"))
	require.Error(t, report{}.check("a"), "nothing was changed")
	late := slices.Repeat([]string{"TIMED OUT"}, 10)
	require.NoError(t, reportOf(t, append(late, killed[:90]...)...).check("a"))
	require.ErrorContains(t, reportOf(t, append(late, killed[:89]...)...).check("a"), "10 of 99 changes ended at the timeout, more than 10 %")
}

func TestSubjects_Files_Exist(t *testing.T) {
	for name, files := range subjects {
		folder := filepath.Join("..", "..", filepath.FromSlash(name))
		_, err := os.Stat(folder)
		require.NoError(t, err)
		for _, file := range files {
			_, err := os.Stat(filepath.Join(folder, file))
			require.NoError(t, err)
		}
	}
}

func TestOthers_WantedFiles_AreNotExcluded(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"a.go", "b.go", "b_test.go"} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte("package a"), 0o600))
	}
	excluded, err := others(folder, []string{"a.go"})
	require.NoError(t, err)
	require.Equal(t, []string{"--exclude-files", `^b\.go$`, "--exclude-files", `^b_test\.go$`}, excluded)
	excluded, err = others(folder, nil)
	require.NoError(t, err)
	require.Empty(t, excluded)
}
