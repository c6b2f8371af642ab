package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
)

// fatalLine is the line of a process that does not start.
type fatalLine struct {
	Time   time.Time
	Level  string
	Msg    string
	Error  string
	Errors []config.Error
}

func readFatal(t *testing.T, err error) (line fatalLine) {
	t.Helper()
	var out bytes.Buffer
	logFatal(&out, err)
	require.Equal(t, 1, strings.Count(out.String(), "\n"))
	decoder := json.NewDecoder(&out)
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&line))
	require.WithinDuration(t, time.Now(), line.Time, time.Minute)
	require.Equal(t, "FATAL", line.Level)
	return line
}

func TestLogFatal_InvalidConfiguration_ListsEveryError(t *testing.T) {
	_, err := newHandler(t.Context(), environment(t, "autoScalingGroups: []\nmode: drain\nmodus: shadow\n"))
	line := readFatal(t, err)
	require.Equal(t, "invalid configuration", line.Msg)
	require.Equal(t, err.Error(), line.Error)
	require.Equal(t, []config.Error{
		{Line: 1, Key: "autoScalingGroups", Reason: "must not be empty"}, {Line: 3, Key: "modus", Reason: "unknown key; did you mean mode?"},
	}, line.Errors)
}

func TestLogFatal_OtherError_HasNoList(t *testing.T) {
	line := readFatal(t, errors.New("load the AWS settings: no region"))
	require.Equal(t, "startup failed", line.Msg)
	require.Equal(t, "load the AWS settings: no region", line.Error)
	require.Nil(t, line.Errors)
}
