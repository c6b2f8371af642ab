package main

import (
	"errors"
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReadOptions_UnusableCommandLine_Error(t *testing.T) {
	for args, want := range map[string]string{
		"--quiet":                   "not defined: -quiet",
		"--grace=90x":               "write a time such as 90s",
		"--grace=0s":                "--grace must be positive",
		"--quiet-for=-1s":           "must not be negative",
		"--port=70000":              "--port must be",
		"--pid=-1":                  "--pid must not be negative, and --port must be",
		"--pid=1 --pid-file=/a/pid": "exclude each other",
		"now":                       `"now" is not a flag`,
	} {
		_, err := readOptions(strings.Fields(args))
		require.ErrorContains(t, err, want, args)
		require.ErrorAs(t, err, new(usageError), args)
	}
	_, err := readOptions([]string{"--help"})
	require.True(t, errors.Is(err, flag.ErrHelp))
}

func TestAccept_LongerThanHalfOfTheGrace_Cut(t *testing.T) {
	for args, want := range map[string]time.Duration{
		"":                             defaultAcceptFor,
		"--grace=90s":                  defaultAcceptFor,
		"--grace 90":                   defaultAcceptFor,
		"--grace=20s":                  10 * time.Second,
		"--grace=90s --accept-for=60s": 45 * time.Second,
		"--accept-for=0s":              0,
	} {
		o, err := readOptions(strings.Fields(args))
		require.NoError(t, err)
		require.Equal(t, want, o.accept(), args)
	}
}
