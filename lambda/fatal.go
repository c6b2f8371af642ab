package main

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"quiesce/internal/config"
)

// levelFatal is the level of the line that a process writes before it exits: Lambda's FATAL
// (https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html).
const levelFatal = slog.LevelError + 4

// logFatal writes why the function did not start, as one line in the shape of all log lines. An invalid configuration has the
// list of its errors.
func logFatal(out io.Writer, err error) {
	log := slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{ReplaceAttr: nameFatal}))
	var invalid config.Errors
	if errors.As(err, &invalid) {
		log.Log(context.Background(), levelFatal, "invalid configuration", "error", err.Error(), "errors", invalid)
		return
	}
	log.Log(context.Background(), levelFatal, "startup failed", "error", err.Error())
}

// nameFatal gives levelFatal its name, which slog does not know.
func nameFatal(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.LevelKey && a.Value.Any() == levelFatal {
		return slog.String(slog.LevelKey, "FATAL")
	}
	return a
}
