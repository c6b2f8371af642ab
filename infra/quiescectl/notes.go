package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
)

// notes writes what the use case logs for a person: a line for each warning, and for each error if they are wanted.
type notes struct {
	out    io.Writer
	errors bool // a plan's error is returned too
	about  []slog.Attr
}

// Enabled implements slog.Handler.
func (n notes) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && (n.errors || level < slog.LevelError)
}

// Handle implements slog.Handler.
func (n notes) Handle(_ context.Context, r slog.Record) error {
	text := []string{r.Message}
	add := func(a slog.Attr) bool {
		if value := a.Value.String(); value != "" {
			text = append(text, a.Key+": "+value)
		}
		return true
	}
	for _, a := range n.about {
		add(a)
	}
	r.Attrs(add)
	_, err := fmt.Fprintln(n.out, "warning:", line(strings.Join(text, ", ")))
	return err
}

// WithAttrs implements slog.Handler.
func (n notes) WithAttrs(about []slog.Attr) slog.Handler {
	n.about = append(slices.Clip(n.about), about...)
	return n
}

// WithGroup implements slog.Handler.
func (n notes) WithGroup(string) slog.Handler { return n }
