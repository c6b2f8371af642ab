package events_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/events"
)

func TestCases_Each_HasAFile(t *testing.T) {
	files, err := fs.Glob(events.FS, "*.json")
	require.NoError(t, err)

	var named []string
	for _, c := range events.Cases {
		require.NotEmpty(t, c.About, c.Name)
		named = append(named, c.Name+".json")
	}
	slices.Sort(named)
	require.Equal(t, files, named)
}

func TestReadme_EveryCase_IsExplained(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	for _, c := range events.Cases {
		require.Contains(t, string(readme), "`"+c.Name+"`")
	}
}

func TestRead_EveryCase_ReturnsJSON(t *testing.T) {
	for _, c := range events.Cases {
		payload, err := events.Read(c.Name)
		require.NoError(t, err)
		require.True(t, json.Valid(payload), c.Name)
	}
}

func TestRead_NameOfCaseOrFile_ReturnsPayload(t *testing.T) {
	byName, err := events.Read("terminate")
	require.NoError(t, err)
	byFile, err := events.Read("terminate.json")
	require.NoError(t, err)
	require.Equal(t, byName, byFile)
}

func TestRead_UnknownCase_IsAnError(t *testing.T) {
	_, err := events.Read("reboot")
	require.ErrorIs(t, err, fs.ErrNotExist)
}
